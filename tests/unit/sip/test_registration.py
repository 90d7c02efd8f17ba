"""A trunk registered through the user agent, against scripts of a registrar; numbers are those of the defect list."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from libs.sip.errors import SipParseError, SipStateError
from libs.sip.events import IncomingCall, Send
from libs.sip.registration import (
    KeepAlive,
    Registered,
    RegistrationConfig,
    RegistrationFailed,
    RegistrationState,
    Unregistered,
)

from .link import CALLER, agent
from .provider import PASSWORD, PROVIDER, REALM, USER, digest_is_right, header
from .test_inbound_calls import invite

CONFIG = {
    "registrar_uri": "sip:provider.example", "aor": f"sip:{USER}@provider.example", "username": USER,
    "password": PASSWORD, "destination": PROVIDER, "keep_alive": KeepAlive.NONE,
}  # fmt: skip


class Registrar:
    """Answers by a script: each entry is a status line with headers, None for silence, or a function of the request."""

    def __init__(self, *script, **settings) -> None:
        self.core = agent(CALLER, "c", transport=settings.pop("transport", "udp"))
        self.script = list(script)
        self.now = 0.0
        self.told: list = []
        self.requests: list[tuple[float, str]] = []
        self.sent: list[tuple[float, bytes]] = []
        self.does(self.core.register("trunk", RegistrationConfig(**{**CONFIG, **settings}), 0.0))

    @property
    def registration(self):
        return self.core.registrations["trunk"]

    def registered_at(self) -> list[float]:
        """When REGISTERs went out that were no repeats of a transaction."""
        seen: dict[str, float] = {}
        for at, text in self.requests:
            if text.startswith("REGISTER"):
                seen.setdefault(header(text, "Via"), at)
        return [round(at, 2) for at in seen.values()]

    def does(self, actions) -> None:
        for action in actions:
            if not isinstance(action, Send):
                self.told.append(action)
                continue
            self.sent.append((self.now, action.data))
            assert action.destination == PROVIDER
            if not action.data.strip():
                continue
            text = action.data.decode()
            self.requests.append((self.now, text))
            reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            reply = reply(text) if callable(reply) else reply
            if reply is not None:
                status, *lines = reply.split("|")
                echoed = "".join(f"{name}: {header(text, name)}\r\n" for name in ("Via", "From", "Call-ID", "CSeq"))
                extra = "".join(f"{line}\r\n" for line in lines)
                data = f"SIP/2.0 {status}\r\n{echoed}To: {header(text, 'To')};tag=r\r\n{extra}\r\n".encode()
                self.does(self.core.receive(data, PROVIDER, self.now))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.core.deadline()) is not None and at <= until:
            self.now = max(at, self.now)
            self.does(self.core.expire(self.now))
        self.now = until


def challenge(nonce: str, extra: str = "") -> str:
    return f'401 Unauthorized|WWW-Authenticate: Digest realm="{REALM}", nonce="{nonce}", qop="auth"{extra}'


def granted(seconds: int):
    """200 listing our Contact among others."""

    def reply(text: str) -> str:
        uri = re.search(r"<(.*?)>", header(text, "Contact"))[1]
        return f"200 OK|Contact: <sip:other@192.0.2.9>;expires=7|Contact: <{uri}>;expires={seconds}|Expires: 9"

    return reply


def guarded(nonce: str, accept=granted(600), password: str = PASSWORD):  # noqa: B008  a function without state
    """A registrar that asks unless the answer to this nonce is right."""

    def reply(text: str) -> str:
        return accept(text) if digest_is_right(text, nonce, password) else challenge(nonce)

    return reply


def test_a_trunk_registers_with_digest_and_refreshes_before_its_time_is_over():
    link = Registrar(guarded("n1"))
    assert link.told == [Registered("trunk", 600)]
    first, second = (text for _, text in link.requests)
    assert (header(first, "Authorization"), header(second, "Authorization") != "") == ("", True)
    assert header(first, "Call-ID") == header(second, "Call-ID")
    assert [header(text, "CSeq") for text in (first, second)] == ["1 REGISTER", "2 REGISTER"]
    assert first.startswith("REGISTER sip:provider.example SIP/2.0\r\n")
    assert header(first, "Contact") == "<sip:callbus@192.0.2.10:5060>;expires=600"
    assert header(first, "To") == "<sip:trunk7@provider.example>"
    link.run(3000)
    intervals = [b - a for a, b in zip([0, *link.registered_at()[2:]], link.registered_at()[2:], strict=False)]
    assert len(intervals) >= 5
    # the refresh carries credentials at once and comes 40 to 96 s before the end
    assert all(504 <= interval <= 560 for interval in intervals)
    assert link.told == [Registered("trunk", 600)]
    assert "nc=00000003" in header(link.requests[3][1], "Authorization")
    assert link.registration.state is RegistrationState.REGISTERED
    assert link.registration.expires_at > link.now


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (granted(120), 120),
        ("200 OK|Expires: 300", 300),
        ("200 OK|Contact: <sip:x@198.51.100.4:1024>;expires=90", 90),
        ("200 OK", 600),
        ("200 OK|Contact: not an address|Expires: 240", 240),
    ],
)
def test_the_time_granted_comes_from_our_contact_else_from_expires(reply, seconds):
    assert Registrar(reply).told == [Registered("trunk", seconds)]


def test_brief_registrations_are_refreshed_at_half_time():
    link = Registrar(granted(20))
    link.run(25)
    assert [9 <= at <= 21 for at in link.registered_at()[1:]] == [True, True]


def test_a_lost_register_is_repeated_and_calls_keep_arriving_meanwhile():  # 20
    link = Registrar(None, None, guarded("n"))
    link.run(0.4)
    actions = link.core.receive(invite(), PROVIDER, link.now)
    assert any(isinstance(action, IncomingCall) for action in actions)
    link.run(3)
    assert [round(at, 1) for at, _ in link.requests] == [0, 0.5, 1.5, 1.5]
    assert link.told == [Registered("trunk", 600)]


def test_a_registrar_that_comes_up_a_minute_after_us_has_us_without_restart():  # 21
    link = Registrar(None)
    link.run(60)
    assert isinstance(link.told[0], RegistrationFailed)
    assert (link.told[0].status, link.registration.state) == (None, RegistrationState.REGISTERING)
    link.script = [guarded("n")]
    link.run(8)
    assert link.told[-1] == Registered("trunk", 600)
    assert link.registration.failures == 0


def test_a_registrar_that_is_gone_for_hours_is_tried_ever_less_often_but_for_ever():
    link = Registrar("500 Out of order")
    link.run(6 * 3600)
    waits = [event.retry_s for event in link.told]
    assert 2.5 <= waits[0] <= 5
    assert all(low / 2 <= wait <= low for low, wait in zip([5, 10, 20, 40, 80, 160], waits, strict=False))
    assert all(150 <= wait <= 300 for wait in waits[6:])
    assert len(set(waits[6:])) > 10
    assert len(waits) > 80
    link.script = [granted(600)]
    link.run(300)
    assert link.told[-1] == Registered("trunk", 600)


def test_a_registration_that_the_provider_forgot_is_made_anew_at_the_refresh():
    link = Registrar(granted(600), None)
    link.run(600)
    assert isinstance(link.told[-1], RegistrationFailed)
    assert link.registration.expires_at is None
    link.script = [guarded("after-restart")]
    link.run(60)
    assert link.told[-1] == Registered("trunk", 600)


def test_an_interval_that_is_too_brief_is_raised_and_kept():
    link = Registrar("423 Interval Too Brief|Min-Expires: 1800", granted(1800))
    assert link.told == [Registered("trunk", 1800)]
    link.run(1800)
    assert [header(text, "Expires") for _, text in link.requests] == ["600", "1800", "1800"]


@pytest.mark.parametrize("line", ["", "|Min-Expires: 60", "|Min-Expires: x"])
def test_a_423_that_helps_nobody_is_a_failure(line):
    link = Registrar(f"423 Interval Too Brief{line}")
    assert [event.status for event in link.told] == [423]


def test_a_registrar_that_raises_its_minimum_for_ever_is_not_followed():
    link = Registrar(*(f"423 No|Min-Expires: {1000 + n}" for n in range(9)))
    assert (link.told[0].status, len(link.requests)) == (423, 3)


def test_a_stale_nonce_is_answered_with_the_new_one():  # 22
    link = Registrar(guarded("n1"))
    link.script = [challenge("n2", ", stale=TRUE"), guarded("n2")]
    link.run(570)
    assert link.told == [Registered("trunk", 600)]
    assert len(link.requests) == 4
    assert "nc=00000001" in header(link.requests[-1][1], "Authorization")


def test_a_registrar_that_calls_every_nonce_stale_is_not_asked_in_a_loop():  # 22
    link = Registrar(*(challenge(f"n{n}", ", stale=true") for n in range(9)))
    assert len(link.requests) == 4
    assert isinstance(link.told[0], RegistrationFailed)


@pytest.mark.parametrize("second", ["n1", "n2"])
def test_wrong_credentials_are_tried_once_and_then_left_for_long(second):
    link = Registrar(challenge("n1"), challenge(second))
    (failed,) = link.told
    assert (failed.status, failed.retry_s, len(link.requests)) == (401, 1800, 2)
    assert "refused our credentials" in failed.reason
    assert link.registration.reason == failed.reason
    assert link.registration.state is RegistrationState.FAILED
    link.script = [guarded("n3")]
    link.run(1799)
    assert len(link.requests) == 2
    link.run(2)
    assert link.told[-1] == Registered("trunk", 600)


@pytest.mark.parametrize(
    ("reply", "least_s"),
    [
        ("503 Busy|Retry-After: 120 (soon)", 120),
        ("503 Busy|Retry-After: 999999999", 3600),
        ("403 Forbidden", 1800),
        ("404 Not Found", 1800),
        ("302 Moved|Contact: <sip:elsewhere.example>", 2.5),
        ("480 Later|Retry-After: x", 2.5),
        ("200 OK|Expires: 0", 2.5),
        ("401 Who|WWW-Authenticate: Basic realm=a", 1800),
    ],
)
def test_what_a_registrar_may_say_instead_decides_when_it_is_asked_again(reply, least_s):
    link = Registrar(reply)
    (failed,) = link.told
    assert failed.status == int(reply[:3])
    assert least_s <= failed.retry_s <= 2 * least_s
    link.run(least_s - 0.1)
    assert len(link.registered_at()) == 1


def test_a_binding_that_never_ends_is_refreshed_all_the_same():
    link = Registrar("200 OK|Expires: 999999999")
    assert link.told == [Registered("trunk", 3600)]
    link.run(3600)
    assert len(link.registered_at()) == 2


def test_the_returned_network_is_used_at_once_and_late_answers_to_the_old_attempt_are_ignored():
    link = Registrar(None)
    link.run(10)
    assert link.registration.is_pending
    link.does(link.core.network_returned(link.now))
    assert link.registered_at() == [0, 10]
    old = link.requests[0][1]
    echoed = "".join(f"{name}: {header(old, name)}\r\n" for name in ("Via", "From", "To", "Call-ID", "CSeq"))
    late = f"SIP/2.0 403 No\r\n{echoed}\r\n"
    told = list(link.told)
    link.does(link.core.receive(late.encode(), PROVIDER, link.now))
    assert link.told == told
    link.script = [guarded("n")]
    link.run(1)
    assert link.told[-1] == Registered("trunk", 600)


def test_a_healthy_trunk_registers_anew_when_the_network_returned_and_nobody_is_told_twice():
    link = Registrar(granted(600))
    link.run(10)
    link.does(link.core.network_returned(link.now))
    assert len(link.registered_at()) == 2
    assert link.told == [Registered("trunk", 600)]


def test_unregistering_takes_the_binding_back_with_credentials():
    link = Registrar(guarded("n1"))
    link.script = [challenge("n2", ", stale=true"), guarded("n2", lambda text: "200 OK")]
    link.does(link.core.unregister("trunk", link.now))
    assert [header(text, "Expires") for _, text in link.requests[2:]] == ["0", "0"]
    assert header(link.requests[-1][1], "Contact").endswith(";expires=0")
    assert link.told[-1] == Unregistered("trunk")
    assert link.core.registrations == {}
    assert link.core.unregister("trunk", link.now) == []
    link.run(40)
    assert link.core.deadline() is None


def test_unregistering_ends_also_when_nobody_answers_and_at_once_when_there_is_no_binding():
    link = Registrar(granted(600), None)
    link.does(link.core.unregister("trunk", link.now))
    assert link.core.unregister("trunk", link.now) == []
    assert link.core.network_returned(link.now) == []
    link.run(40)
    assert link.told[-1] == Unregistered("trunk", "no answer from the registrar")
    assert link.core.deadline() is None
    never = Registrar("403 No")
    never.does(never.core.unregister("trunk", never.now))
    assert never.told[-1] == Unregistered("trunk")
    assert len(never.requests) == 1


def test_crlf_keeps_the_way_through_a_nat_open_while_registered():
    link = Registrar(granted(3600), keep_alive=KeepAlive.CRLF)
    link.run(100)
    pings = [at for at, data in link.sent if data == b"\r\n\r\n"]
    waits = [after - before for before, after in pairwise([0, *pings])]
    assert all(24 <= wait_s <= 29 for wait_s in waits)  # RFC 5626 §4.4.1
    assert len(set(waits)) == len(waits) >= 3
    link.does(link.core.unregister("trunk", link.now))
    link.run(100)
    assert len([1 for _, data in link.sent if data == b"\r\n\r\n"]) == len(pings)


def test_over_tcp_two_minutes_may_pass_between_two_keep_alives():
    link = Registrar(granted(3600), transport="tcp", keep_alive=KeepAlive.CRLF)
    link.run(700)
    pings = [at for at, data in link.sent if data == b"\r\n\r\n"]
    assert all(95 <= after - before <= 120 for before, after in pairwise([0, *pings]))


@pytest.mark.parametrize(("longest_s", "expected"), [(0, 0), (10, 10)])
def test_the_caller_says_how_often_the_way_is_kept_open(longest_s, expected):
    link = Registrar(granted(3600), keep_alive=KeepAlive.CRLF, keep_alive_s=longest_s)
    link.run(100)
    assert expected <= len([1 for _, data in link.sent if data == b"\r\n\r\n"]) <= expected * 1.25


def test_options_that_nobody_answers_cost_a_new_registration():
    link = Registrar(granted(3600), "404 Not Found", None, keep_alive=KeepAlive.OPTIONS, keep_alive_s=60)
    link.run(95)
    assert link.requests[1][1].startswith("OPTIONS sip:provider.example")
    assert link.registered_at() == [0]
    link.run(26)  # the second one is lost with all its repeats
    _, second_ping = dict.fromkeys(header(text, "Via") for _, text in link.requests if text.startswith("OPTIONS"))
    lost_at = min(at for at, text in link.requests if header(text, "Via") == second_ping)
    link.run(lost_at + 33 - link.now)
    assert link.registered_at() == [0, round(lost_at + 32, 2)]
    link.script = [granted(3600)]
    link.run(10)
    assert link.told == [Registered("trunk", 3600)]


def test_the_loss_of_one_options_is_found_out_before_the_next_one_goes_out():
    link = Registrar(granted(3600), None, keep_alive=KeepAlive.OPTIONS)
    link.run(62)
    assert len({header(text, "Via") for _, text in link.requests if text.startswith("OPTIONS")}) == 1
    assert len(link.registered_at()) == 2


def test_the_returned_network_starts_the_back_off_anew():
    link = Registrar("500 No")
    link.run(400)
    assert link.told[-1].retry_s > 40
    link.does(link.core.network_returned(link.now))
    assert link.told[-1].retry_s <= 5


def test_a_registrar_that_fails_for_years_is_still_asked():
    link = Registrar("500 No")
    link.registration.failures = 5000
    link.run(6)
    assert link.told[-1].retry_s <= 300


def test_trunks_that_started_together_do_not_refresh_in_step():
    link = Registrar(granted(3600))
    for number in range(9):
        link.does(link.core.register(f"t{number}", RegistrationConfig(**CONFIG), 0.0))
    link.run(3600)
    assert len(set(link.registered_at()[10:])) == 10


def test_several_trunks_live_on_one_socket():
    link = Registrar(granted(600))
    link.does(link.core.register("second", RegistrationConfig(**{**CONFIG, "contact_user": "b"}), 0.0))
    assert link.told == [Registered("trunk", 600), Registered("second", 600)]
    assert header(link.requests[-1][1], "Contact").startswith("<sip:b@")
    with pytest.raises(SipStateError):
        link.core.register("second", RegistrationConfig(**CONFIG), 0.0)
    with pytest.raises(SipParseError):
        link.core.register("third", RegistrationConfig(**{**CONFIG, "aor": "tel:+49"}), 0.0)
    assert "s3cret" not in repr(link.registration.config)
