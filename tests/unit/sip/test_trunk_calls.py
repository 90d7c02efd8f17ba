"""Calls over a trunk that asks for credentials: the provider model of which most stacks fail."""

import pytest

from libs.sip.digest import Login
from libs.sip.events import Answered, EndCause, Ended, ReinviteRejected, Rejected, Ringing, Send
from libs.sip.message import parse
from libs.sip.user_agent import OutgoingCall, UaConfig, UserAgent

from .link import ANSWER, CALLEE, CALLER, OFFER, tokens
from .provider import PASSWORD, PROVIDER, REALM, USER, Provider, Trunk
from .test_outbound_calls import response_to


def credentials(realm):
    return Login(USER, PASSWORD) if realm == REALM else None


def agent(**settings):
    return UserAgent(UaConfig(*CALLER, **settings), tokens("c"), credentials)


def call(**fields) -> OutgoingCall:
    return OutgoingCall("sip:+4930@provider.example", PROVIDER, "sip:+49123@provider.example", "", OFFER, **fields)


def trunk(provider: Provider, **fields) -> tuple[Trunk, str]:
    link = Trunk(agent(), provider)
    dialog, actions = link.core.invite(call(**fields), 0.0)
    link.does(actions)
    return link, dialog


@pytest.mark.parametrize("auth_status", ["401 Unauthorized", "407 Proxy Authentication Required"])
@pytest.mark.parametrize("session_expires", ["", "90;refresher=uac", "90;refresher=uas"])
def test_a_call_over_the_awkward_provider_is_kept_up_for_sixty_seconds(auth_status, session_expires):  # 12 to 19
    provider = Provider(ANSWER, session_expires, auth_status=auth_status)
    link, dialog = trunk(provider)
    link.run(60)
    assert provider.complaints == []
    assert [type(event) for event in link.told] == [Ringing, Answered]
    assert link.core.active_dialogs == 1
    # the INVITE that was lost, its repeat, the one with credentials; the ACK to the challenge twice, to the 200 twice
    assert provider.log[:3] == ["INVITE", "INVITE", "ACK"]
    assert (provider.log.count("INVITE"), provider.acks) == (3, 2)
    assert provider.log.count("ACK") == 4
    assert ("UPDATE" in provider.log) == (session_expires == "90;refresher=uac")
    link.does(link.core.bye(dialog, link.now))
    link.run(40)
    assert provider.complaints == []
    assert provider.ended
    assert link.told[-1].cause is EndCause.LOCAL_BYE
    assert link.core.deadline() is None


def test_a_bye_that_is_challenged_anew_is_sent_again_although_the_call_is_over():
    provider = Provider(ANSWER, lose_first=False)
    link, dialog = trunk(provider)
    link.run(5)
    bye = link.core.bye(dialog, link.now)[0]
    challenge = response_to(
        bye.data, "407 Again", "", f'Proxy-Authenticate: Digest realm="{REALM}", nonce="n2", stale=true\r\n'
    )
    (again,) = link.core.receive(challenge.replace(b";tag=\r\n", b"\r\n"), PROVIDER, link.now)
    before, after = parse(bye.data), parse(again.data)
    assert (after.method, after.cseq, after.call_id) == ("BYE", before.cseq + 1, before.call_id)
    assert 'nonce="n2"' in after.header("proxy-authorization")
    assert link.core.receive(challenge, PROVIDER, link.now) == []


def challenged(core, nonce, extra="", status="401 Unauthorized"):
    """Answer the latest INVITE with a challenge."""

    def receive(sent: bytes, now: float):
        line = f'WWW-Authenticate: Digest realm="{REALM}", nonce="{nonce}"{extra}\r\n'
        return core.receive(response_to(sent, status, "t", line), CALLEE, now)

    return receive


def invite_in(actions) -> bytes:
    return next(a.data for a in actions if isinstance(a, Send) and a.data.startswith(b"INVITE"))


def test_the_invite_with_credentials_keeps_call_id_and_tag_and_counts_cseq():
    core = agent()
    _dialog, (first,) = core.invite(call(), 0.0)
    ack, second = challenged(core, "n1")(first.data, 0.1)
    before, after = parse(first.data), parse(second.data)
    assert parse(ack.data).via.branch == before.via.branch
    assert (after.call_id, after.from_.tag, after.cseq) == (before.call_id, before.from_.tag, before.cseq + 1)
    assert after.via.branch != before.via.branch
    assert after.body == before.body
    # the repeated 401 of the old transaction: ACK again, nothing else
    assert challenged(core, "n1")(first.data, 0.7) == [ack]


def test_wrong_credentials_reject_the_call_once_and_say_why():
    core = agent()
    dialog, (first,) = core.invite(call(), 0.0)
    second = invite_in(challenged(core, "n1")(first.data, 0.1))
    ack, rejected = challenged(core, "n2")(second, 0.2)
    assert isinstance(rejected, Rejected)
    assert (rejected.dialog, rejected.status) == (dialog, 401)
    assert "refused our credentials" in rejected.reason
    assert challenged(core, "n2")(second, 0.3) == [ack]
    assert core.active_dialogs == 0


def test_a_stale_nonce_is_answered_a_bounded_number_of_times():
    core = agent()
    _dialog, (first,) = core.invite(call(), 0.0)
    sent, rounds = first.data, 0
    while True:
        actions = challenged(core, f"n{rounds}", ", stale=TRUE")(sent, rounds / 10)
        if any(isinstance(a, Rejected) for a in actions):
            break
        sent = invite_in(actions)
        rounds += 1
    assert rounds == 3


def test_no_credentials_for_the_realm_reject_the_call():
    core = agent()
    _dialog, (first,) = core.invite(call(credentials=lambda realm: None), 0.0)
    assert challenged(core, "n")(first.data, 0.1)[-1].status == 401


def test_a_call_cancelled_before_the_challenge_is_not_placed_again():
    core = agent()
    dialog, (first,) = core.invite(call(), 0.0)
    core.cancel(dialog, 0.05)
    ack, ended = challenged(core, "n")(first.data, 0.1)
    assert parse(ack.data).method == "ACK"
    assert ended == Ended(dialog, EndCause.LOCAL_CANCEL, 401, "Unauthorized")


def confirmed(**settings):
    core = agent(**settings)
    dialog, (first,) = core.invite(call(), 0.0)
    headers = "Contact: <sip:x@192.0.2.20>\r\nAllow: INVITE, UPDATE\r\n"
    core.receive(response_to(first.data, "200 OK", "t", headers, ANSWER), CALLEE, 0.2)
    return core, dialog


@pytest.mark.parametrize(
    ("command", "method"),
    [
        (lambda core, dialog: core.reinvite(dialog, OFFER, 1.0), "INVITE"),
        (lambda core, dialog: core.update(dialog, OFFER, 1.0), "UPDATE"),
        (lambda core, dialog: core.hold(dialog, 1.0), "INVITE"),
        (lambda core, dialog: core.refer(dialog, "sip:z@example.com", 1.0), "REFER"),
        (lambda core, dialog: core.bye(dialog, 1.0), "BYE"),
    ],
)
def test_requests_inside_the_dialog_are_repeated_with_credentials_too(command, method):
    core, dialog = confirmed()
    sent = command(core, dialog)[0].data
    line = f'Proxy-Authenticate: Digest realm="{REALM}", nonce="n", qop="auth"\r\n'
    actions = core.receive(response_to(sent, "407 Who?", "t", line).replace(b";tag=t;tag=t", b";tag=t"), CALLEE, 1.1)
    again = parse(actions[-1].data)
    assert (again.method, again.cseq) == (method, parse(sent).cseq + 1)
    assert "Digest" in again.header("proxy-authorization")
    assert again.body == parse(sent).body
    refused = core.receive(response_to(actions[-1].data, "407 No", "t", line), CALLEE, 1.2)
    assert not [a for a in refused if isinstance(a, Send) and a.data.startswith(method.encode())]
    assert core.active_dialogs == (method != "BYE")
    if method in ("INVITE", "UPDATE"):
        assert isinstance(refused[-1], ReinviteRejected)


def test_the_ack_to_a_2xx_carries_the_credentials_of_its_invite():
    core = agent()
    _dialog, (first,) = core.invite(call(), 0.0)
    second = invite_in(challenged(core, "n1")(first.data, 0.1))
    ack = core.receive(response_to(second, "200 OK", "t", "Contact: <sip:x@192.0.2.20>\r\n"), CALLEE, 0.2)[0]
    assert parse(ack.data).header("authorization") == parse(second).header("authorization")


def test_the_unwanted_leg_of_a_forked_call_is_ended_with_credentials():
    core = agent()
    _dialog, (first,) = core.invite(call(), 0.0)
    second = invite_in(challenged(core, "n1")(first.data, 0.1))
    contact = "Contact: <sip:x@192.0.2.20>\r\n"
    core.receive(response_to(second, "200 OK", "one", contact), CALLEE, 0.2)
    ack, bye = core.receive(response_to(second, "200 OK", "two", contact), CALLEE, 0.3)
    assert 'nonce="n1"' in parse(bye.data).header("authorization")
    assert parse(ack.data).header("authorization") == parse(second).header("authorization")
    again = core.receive(
        response_to(bye.data, "401 Who?", "two", f'WWW-Authenticate: Digest realm="{REALM}", nonce="n2"\r\n')
        .replace(b";tag=two;tag=two", b";tag=two"), CALLEE, 0.4,
    )  # fmt: skip
    assert parse(again[0].data).to.tag == "two"
    assert core.active_dialogs == 1


def test_an_offer_that_waited_after_491_may_be_challenged_anew():
    core, dialog = confirmed()
    actions = core.hold(dialog, 1.0)
    for status, nonce in (("407 Who?", "n1"), ("491 Pending", ""), ("407 Who?", "n2")):
        line = f'Proxy-Authenticate: Digest realm="{REALM}", nonce="{nonce}"\r\n' if nonce else ""
        reply = response_to(invite_in(actions), status, "t", line).replace(b";tag=t;tag=t", b";tag=t")
        actions = core.receive(reply, CALLEE, 1.1)
        if not nonce:
            actions = core.expire(6.0)
    assert 'nonce="n2"' in parse(invite_in(actions)).header("proxy-authorization")
