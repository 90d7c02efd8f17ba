"""Digest against the examples of the RFCs, what servers really send, and our own asking side."""

import itertools

import pytest

from libs.sip.digest import (
    Answer,
    Authenticator,
    Challenge,
    DigestError,
    Login,
    authorization,
    digest_response,
    parse_challenges,
    parse_digest,
)
from libs.sip.digest_server import DigestServer, Verdict

RFC_7616 = Answer("GET", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", 1, "auth")
MUFASA = Login("Mufasa", "Circle of Life")


def tokens():
    numbers = itertools.count(1)
    return lambda: f"t{next(numbers)}"


def auth(login=Login("alice", "secret")):  # noqa: B008  frozen
    return Authenticator(lambda realm: login if realm != "elsewhere" else None, tokens())


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_rfc_7616_3_9_1(algorithm, expected):
    challenge = Challenge("http-auth@example.org", "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", algorithm, ("auth",))
    assert digest_response(MUFASA, challenge, RFC_7616) == expected


def test_the_example_of_rfc_2617_3_5():
    challenge = Challenge("testrealm@host.com", "dcd98b7102dd2f0e8b11d0f600bfb0c093", "", ("auth",))
    answer = Answer("GET", "/dir/index.html", "0a4f113b", 1, "auth")
    assert digest_response(Login("Mufasa", "Circle Of Life"), challenge, answer) == "6629fae49393a05397450978507c4ef1"


def test_without_qop_the_response_is_that_of_rfc_2069():
    challenge = Challenge("testrealm@host.com", "dcd98b7102dd2f0e8b11d0f600bfb0c093")
    answer = Answer("GET", "/dir/index.html")
    assert digest_response(Login("Mufasa", "Circle Of Life"), challenge, answer) == "670fd8c2df070c60b045671b8b24ff02"


def test_sess_algorithms_hash_nonce_and_cnonce_into_the_secret_and_auth_int_the_body():
    # computed step by step, independent of the function under test
    import hashlib

    def sha(text):
        return hashlib.sha256(text.encode()).hexdigest()

    challenge = Challenge("r", "n", "SHA-256-sess", ("auth-int",))
    a1 = sha(sha("u:r:p") + ":n:c")
    a2 = sha("INVITE:sip:x:" + sha("body"))
    answer = Answer("INVITE", "sip:x", "c", 2, "auth-int", b"body")
    assert digest_response(Login("u", "p"), challenge, answer) == sha(f"{a1}:n:00000002:c:auth-int:{a2}")


def test_several_challenges_commas_in_quotes_and_stale_in_any_case_are_read():
    lines = [
        'Digest realm="a", nonce="x,y=", qop="auth,auth-int", stale=TRUE, algorithm=SHA-256, opaque="", '
        'Basic realm="no", Digest realm = "b" , nonce="z"',
        'DIGEST nonce="only, here",realm="c",algorithm="md5",domain="sip:a, sip:b"',
        "Digest realm=broken",
    ]
    assert parse_challenges(lines) == [
        Challenge("a", "x,y=", "SHA-256", ("auth", "auth-int"), "", True),
        Challenge("b", "z"),
        Challenge("c", "only, here", "md5"),
    ]


@pytest.mark.parametrize("line", ["", "Digest", 'Digest realm="', "=,=,", 'Digest nonce="a', '"', "Digest ,,, nonce=,"])
def test_challenges_that_are_no_challenges_give_a_sentence_and_no_exception_of_another_kind(line):
    with pytest.raises(DigestError):
        auth(None).learn(401, {"www-authenticate": [line]})


def test_the_strongest_algorithm_that_is_understood_is_answered():
    asking = {"www-authenticate": [
        'Digest realm="r", nonce="1", algorithm=MD5', 'Digest realm="r", nonce="2", algorithm=SHA-256, qop="auth"',
        'Digest realm="r", nonce="3", algorithm=SHA-512-256',
    ]}  # fmt: skip
    ours = auth()
    ours.learn(401, asking)
    ((name, value),) = ours.headers("REGISTER", "sip:r")
    (given,) = parse_digest(value)
    assert (name, given["nonce"], given["algorithm"], given["cnonce"]) == ("Authorization", "2", "SHA-256", "t1")


def test_nc_counts_per_nonce_and_starts_again_with_a_new_one():
    ours = auth()
    ours.learn(407, {"proxy-authenticate": ['Digest realm="r", nonce="1", qop="auth"']})
    seen = [parse_digest(ours.headers("INVITE", "sip:r")[0][1])[0]["nc"] for _ in range(2)]
    ours.learn(407, {"proxy-authenticate": ['Digest realm="r", nonce="2", qop="auth", stale=true']})
    ((name, value),) = ours.headers("BYE", "sip:r")
    assert (name, seen, parse_digest(value)[0]["nc"]) == (
        "Proxy-Authorization", ["00000001", "00000002"], "00000001",
    )  # fmt: skip


def test_an_answer_that_was_refused_is_not_given_again_and_a_stale_nonce_is_answered_without_loop():
    ours = auth()
    tried = ours.learn(401, {"www-authenticate": ['Digest realm="r", nonce="1"']})
    with pytest.raises(DigestError, match="refused"):
        ours.learn(401, {"www-authenticate": ['Digest realm="r", nonce="2"']}, tried)
    assert ours.headers("INVITE", "sip:r") == []
    tried = ours.learn(401, {"www-authenticate": ['Digest realm="r", nonce="1", stale=true']})
    with pytest.raises(DigestError):
        ours.learn(401, {"www-authenticate": ['Digest realm="r", nonce="1", stale=true']}, tried)
    tried = ()
    for nonce in range(3):
        tried = ours.learn(401, {"www-authenticate": [f'Digest realm="r", nonce="{nonce}", stale=true']}, tried)
    with pytest.raises(DigestError):
        ours.learn(401, {"www-authenticate": ['Digest realm="r", nonce="9", stale=true']}, tried)


def test_a_proxy_and_the_far_end_may_both_ask():
    ours = auth()
    tried = ours.learn(407, {"proxy-authenticate": ['Digest realm="r", nonce="1"']})
    ours.learn(401, {"www-authenticate": ['Digest realm="r", nonce="1"']}, tried)
    assert {name for name, _ in ours.headers("INVITE", "sip:r")} == {"Authorization", "Proxy-Authorization"}


def test_realms_that_change_for_ever_do_not_pile_up():
    ours = auth()
    for number in range(20):
        ours.learn(401, {"www-authenticate": [f'Digest realm="r{number}", nonce="1"']})
    assert len(ours.headers("REGISTER", "sip:r")) == 4


def test_no_login_for_a_realm_is_said():
    with pytest.raises(DigestError, match="no credentials for realm 'elsewhere'"):
        auth().learn(401, {"www-authenticate": ['Digest realm="elsewhere", nonce="1"']})


def test_a_login_hides_its_password_and_quotes_its_name():
    login = Login('a"b', "secret")
    assert "secret" not in repr(login)
    assert '"a\\"b"' in authorization(login, Challenge("r", "n"), Answer("BYE", "sip:x"))


# -- the asking side ---------------------------------------------------------------------------------------------------


class Pair:
    """A guarded realm and a caller who answers it."""

    def __init__(self, password="secret"):
        self.server = DigestServer("callbus", {"alice": "secret", 'o"x': "secret"}.get, b"key", tokens())
        self.client = auth(Login("alice", password))

    def ask(self, now=0.0, stale=False):
        lines = [value for _, value in self.server.challenge(now, stale)]
        self.client.learn(401, {"www-authenticate": lines})

    def answer(self):
        return [value for _, value in self.client.headers("INVITE", "sip:x")]


def test_a_right_answer_is_accepted_and_its_repetition_refused():
    pair = Pair()
    pair.ask()
    first = pair.answer()
    assert "SHA-256" in first[0]
    checked = pair.server.check("INVITE", first, 1.0)
    assert (checked.verdict, checked.username) == (Verdict.ACCEPTED, "alice")
    assert pair.server.check("INVITE", first, 1.1).verdict is Verdict.REPLAYED
    assert pair.server.check("INVITE", pair.answer(), 1.2).verdict is Verdict.ACCEPTED
    assert pair.server.check("BYE", pair.answer(), 1.3).verdict is Verdict.WRONG


def test_wrong_passwords_unknown_users_old_and_forged_nonces_are_told_apart():
    pair, wrong = Pair(), Pair("guessed")
    assert pair.server.check("INVITE", [], 0.0).verdict is Verdict.MISSING
    pair.ask()
    assert pair.server.check("INVITE", pair.answer(), 301.0).verdict is Verdict.STALE
    forged = pair.answer()[0].replace('nonce="', 'nonce="f')
    assert pair.server.check("INVITE", [forged], 1.0).verdict is Verdict.STALE
    wrong.ask()
    assert wrong.server.check("INVITE", wrong.answer(), 1.0).verdict is Verdict.WRONG
    wrong.client = auth(Login("mallory", ""))
    wrong.ask()
    assert wrong.server.check("INVITE", wrong.answer(), 1.0).verdict is Verdict.WRONG


@pytest.mark.parametrize("damage", [("nc=", "nc=x"), ("qop=auth", "qop=auth-int"), ("SHA-256", "SHA-1"), ("uri", "u")])
def test_damaged_answers_are_wrong(damage):
    pair = Pair()
    pair.ask()
    assert pair.server.check("INVITE", [pair.answer()[0].replace(*damage)], 1.0).verdict is Verdict.WRONG


def test_used_nonces_are_forgotten_when_they_are_too_old_to_be_taken():
    pair = Pair()
    for now in range(0, 2000, 100):
        pair.ask(float(now))
        assert pair.server.check("INVITE", pair.answer(), float(now)).verdict is Verdict.ACCEPTED
    assert len(pair.server._last_nc) <= 5
