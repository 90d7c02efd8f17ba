"""Whatever a peer, a caller or the model's endpoint sends: a clear log line and a defined end, or the call goes on.

The endpoint is the rehearsal server, in this process; which fault a session suffers is written in its agent's model.
All calls of a test run at once, on one platform of real processes.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.rtp import pack_header
from libs.audio.tone import tone
from libs.contracts.agent import AgentConfig, Limits
from libs.contracts.config import RouteConfig
from libs.contracts.events import CallEnded, CallOffered, SessionTrouble
from libs.contracts.termination import Reason
from libs.softphone.phone import CallRejected, PhoneCall, Softphone
from services.rehearsal.faults import Endpoint, Fault, parse_fault
from services.rehearsal.scenario import Scenario
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, EventFeed, Platform, platform

pytestmark = pytest.mark.asyncio(loop_scope="module")

GREETING = "Guten Tag, hier ist der Probebetrieb. Sie sprechen mit einem KI-Assistenten."
ENDLESS_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Case:
    """An agent whose model misbehaves: in its first session alone, or in every one."""

    name: str
    fault: str
    always: bool = False
    ends: Reason | None = None  # None: the call goes on
    troubled: bool = False  # the record says what happened


REFUSALS = [
    Case("refuses-401", "refuse:status=401", always=True, ends=Reason.MODEL_REFUSED),
    Case("refuses-403", "refuse:status=403", always=True, ends=Reason.MODEL_REFUSED),
    Case("refuses-404", "refuse:status=404", always=True, ends=Reason.MODEL_REFUSED),
    Case("refuses-429", "refuse:status=429", always=True, ends=Reason.MODEL_UNREACHABLE),
    Case("refuses-500", "refuse:status=500", always=True, ends=Reason.MODEL_UNREACHABLE),
    Case("hangs-before-upgrade", "hang_upgrade", always=True, ends=Reason.MODEL_UNREACHABLE),
    Case("hangs-before-session-created", "no_session_created", always=True, ends=Reason.MODEL_UNREACHABLE),
    Case("never-answers-session-update", "no_session_updated", always=True, ends=Reason.MODEL_UNREACHABLE),
]
RETRIED = [
    Case("refuses-429-once", "refuse:status=429"),
    Case("refuses-500-once", "refuse:status=500"),
    Case("hangs-once", "no_session_created"),
    Case("closes-1000-at-once", "close:code=1000", troubled=True),
    Case(
        "closes-1001-at-once", "close:code=1001"
    ),  # it says before that the session expired: not open yet, tried again
    Case("closes-1011-at-once", "close:code=1011", troubled=True),
    Case("closes-1000-in-speech", "close:code=1000,after_deltas=3", troubled=True),
    Case("closes-1001-in-speech", "close:code=1001,after_deltas=3", troubled=True),
    Case("closes-1011-in-speech", "close:code=1011,after_deltas=3", troubled=True),
    Case("drops-the-connection", "abort:after_deltas=3", troubled=True),
    Case("falls-silent", "stall:after_deltas=3,duration_ms=0", troubled=True),
    Case("malformed-json", "malformed_json:times=3"),
    Case("malformed-base64", "malformed_base64:times=3"),
    Case("unknown-events", "unknown_event:after_deltas=2,times=3"),
    Case("extra-fields", "extra_field:times=20"),
    Case("missing-fields", "missing_field:times=3"),
    Case("missing-session", "missing_field:event_type=session.created,field=session"),
    Case("missing-response", "missing_field:event_type=response.created,field=response"),
    Case("binary-frames", "binary_frame:times=3"),
    Case("odd-bytes", "odd_bytes:times=3"),
    Case("duplicates", "duplicate_deltas:deltas=3"),
    Case("server-error", "error:after_deltas=2"),
    Case("rate-limited", "rate_limit"),
]
HOPELESS = [
    Case("always-closes-1011", "close:code=1011", always=True, ends=Reason.MODEL_FAILED, troubled=True),
    Case("always-closes-1000", "close:code=1000", always=True, ends=Reason.MODEL_FAILED, troubled=True),
]
CASES = {case.name: case for case in [*REFUSALS, *RETRIED, *HOPELESS]}


class FaultyEndpoint(Rehearsal):
    """Suffers what the session's model is named after."""

    asked: Counter[str]

    def take_faults(self, request: web.Request, endpoint: Endpoint, *, turn: int | None = None) -> list[Fault]:
        name = request.query.get("model", "")
        if not hasattr(self, "asked"):
            self.asked = Counter()
        self.asked[name] += 1
        case = CASES.get(name)
        return [parse_fault(case.fault)] if case and (case.always or self.asked[name] == 1) else []


def documents() -> list[AgentConfig | RouteConfig]:
    agents = [AgentConfig(name="normal", model="gpt-realtime-2.1", greeting=GREETING)]
    agents += [
        AgentConfig(name=case.name, model=case.name, greeting=GREETING, limits=Limits(ready_timeout_s=6))
        for case in CASES.values()
    ]
    routes = [RouteConfig(name=agent.name, match=(agent.name,), agent=agent.name) for agent in agents]
    return [*agents, *routes, ECHO_AGENT, ECHO_ROUTE, RouteConfig(name="lost", match=("lost",), agent="nobody")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[Rehearsal]:
    settings = RehearsalSettings(default_scenario="greeter", speed=20, first_byte_ms=20)
    greeter = Scenario(name="greeter", greeting=GREETING)
    async with FaultyEndpoint.start(settings, scenarios=[greeter]) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(endpoint: Rehearsal) -> AsyncIterator[Platform]:
    worker = {"OPENAI_BASE_URL": endpoint.base_url, "OPENAI_API_KEY": "rehearsal"}
    async with platform(documents=documents(), worker_environment=worker) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def phone() -> AsyncIterator[Softphone]:
    async with await Softphone.open() as opened:
        yield opened


async def until(happened: Callable[[], object], timeout_s: float = 5) -> None:
    """Wait for what has no event of its own in this process."""
    async with asyncio.timeout(timeout_s):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def record(feed: EventFeed, callee: str, count: int = 1, timeout_s: float = 15) -> CallEnded:
    """How the latest call to `callee` ended: exactly once."""
    async with asyncio.timeout(timeout_s):
        while True:
            calls = [event.call for event in feed.of(CallOffered) if event.callee == callee]
            ends = [event for event in feed.of(CallEnded) if event.call in calls]
            if len(calls) == count and len(ends) == count:
                return ends[-1]
            await asyncio.sleep(0.05)


def lines(running: Platform, name: str, call: str) -> list[dict[str, Any]]:
    """The log of a process about one call."""
    found = [json.loads(line) for line in running.log(name).splitlines() if line.startswith("{")]
    return [line for line in found if line.get("call") == call]


async def greeted(call: PhoneCall, timeout_s: float = 12) -> None:
    """The agent speaks, and comes to an end."""
    await call.wait_for_speech(timeout_s=timeout_s)
    await call.wait_for_silence(600, timeout_s=timeout_s)


async def trouble(feed: EventFeed, callee: str, timeout_s: float = 15) -> None:
    """The session of a call reported trouble."""

    def calls() -> set[str]:
        return {event.call for event in feed.of(CallOffered) if event.callee == callee}

    await until(lambda: calls() & {event.call for event in feed.of(SessionTrouble)}, timeout_s)


async def hears_a_normal_greeting(running: Platform, phone: Softphone) -> None:
    call = await phone.call(running.sip_uri("normal"), timeout_s=8)
    await greeted(call)
    await call.hang_up()


async def check_all_is_over(running: Platform) -> None:
    gauges = (("sip_gateway", "callbus_calls"), ("ai_session-1", "callbus_worker_sessions"))
    async with asyncio.timeout(10):
        while any([await running.metric(*gauge) for gauge in gauges]):  # noqa: ASYNC110  a page of another process
            await asyncio.sleep(0.1)


# -- the model's endpoint ---------------------------------------------------------------------------------


async def refused(case: Case, running: Platform, phone: Softphone, feed: EventFeed) -> None:
    began = time.monotonic()
    with pytest.raises(CallRejected) as caught:
        await phone.call(running.sip_uri(case.name), timeout_s=ENDLESS_TIMEOUT_S)
    assert caught.value.status == 503, case
    assert time.monotonic() - began < 10, case
    ended = await record(feed, case.name)
    assert ended.termination.reason is case.ends, (case, ended.termination)
    assert ended.termination.detail
    told = [line for line in lines(running, "ai_session-1", ended.call) if line["level"] == "warning"]
    assert any(line.get("reason") == case.ends and line.get("detail") for line in told), (case, told)


async def goes_on(case: Case, running: Platform, phone: Softphone, feed: EventFeed) -> None:
    call = await phone.call(running.sip_uri(case.name), timeout_s=ENDLESS_TIMEOUT_S)
    try:
        if "stall" in case.fault:  # it takes its time to tell a stall from a pause
            await trouble(feed, case.name)
        await greeted(call, 20)
        assert call.ended is None, (case, call.ended)
    finally:
        await call.hang_up()
    ended = await record(feed, case.name)
    assert ended.termination.reason is Reason.CALLER_HUNG_UP, (case, ended.termination)
    if case.troubled:
        assert feed.of(SessionTrouble, ended.call), case


async def given_up(case: Case, running: Platform, phone: Softphone, feed: EventFeed) -> None:
    call = await phone.call(running.sip_uri(case.name), timeout_s=ENDLESS_TIMEOUT_S)
    assert (await call.wait_ended(40)).cause == "remote_bye", case
    ended = await record(feed, case.name)
    assert ended.termination.reason is case.ends, (case, ended.termination)


async def all_at_once(tried: dict[str, Any]) -> None:
    results = await asyncio.gather(*tried.values(), return_exceptions=True)
    failed = {name: result for name, result in zip(tried, results, strict=True) if isinstance(result, BaseException)}
    assert not failed, "\n".join(f"{name}: {result!r}" for name, result in failed.items())


@pytest.mark.timeout(90)
async def test_a_model_endpoint_may_refuse_hang_close_and_send_garbage(
    running: Platform, feed: EventFeed, phone: Softphone
) -> None:
    tried = {case.name: refused(case, running, phone, feed) for case in REFUSALS}
    tried |= {case.name: goes_on(case, running, phone, feed) for case in RETRIED}
    tried |= {case.name: given_up(case, running, phone, feed) for case in HOPELESS}
    await all_at_once(tried)
    await check_all_is_over(running)
    await hears_a_normal_greeting(running, phone)
    assert "Traceback" not in running.log("ai_session-1")


# -- callers ----------------------------------------------------------------------------------------------


INVITE = (
    "INVITE sip:echo@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{n};rport\r\n"
    "From: <sip:anna@127.0.0.1>;tag=1\r\nTo: <sip:{to}@127.0.0.1>\r\nCall-ID: bad-{n}\r\nCSeq: 1 INVITE\r\n"
    "Max-Forwards: 70\r\nContact: <sip:anna@127.0.0.1:{port}>\r\nContent-Type: application/sdp\r\n"
    "Content-Length: {length}\r\n\r\n{sdp}"
)
SDP = (
    "v=0\r\no=a 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP 18 96\r\na=rtpmap:18 G729/8000\r\na=rtpmap:96 opus/48000/2\r\n"
)
TORTURE = (Path(__file__).parents[1] / "data" / "sip" / "torture.txt").read_text("utf-8").split("\n=== ")[1:]


async def says_and_hears(call: PhoneCall, hz: float) -> None:
    """The line is up, both ways."""
    began = len(call.heard)
    piece = tone(hz, 200, 8000)  # a busy machine may leave a gap somewhere in the echo
    await call.play(tone(hz, 800, 8000)).wait()
    await until(lambda: best_correlation(piece, bytes(call.heard[began:]))[0] > 0.95)


async def test_malformed_sip_is_answered_or_dropped_and_calls_go_on(running: Platform, phone: Softphone) -> None:
    call = await phone.call(running.sip_uri("echo"))
    gateway = ("127.0.0.1", running.sip_port)
    chance = random.Random(7)
    whole = INVITE.format(port=phone.address[1], n=0, to="echo", sdp=SDP, length=len(SDP)).encode()
    for number in range(400):
        damaged = bytearray(whole.replace(b"z9hG4bK0", b"z9hG4bKx%d" % number).replace(b"bad-0", b"bad-x%d" % number))
        for _ in range(chance.randint(1, 30)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        phone.send_raw(bytes(damaged[: chance.randint(1, len(damaged))]), gateway)
        if number % 50 == 0:
            await asyncio.sleep(0)
    for section in TORTURE:
        phone.send_raw(section.partition("\n")[2].replace("\n", "\r\n").encode(), gateway)
    for rubbish in (b"", b"\0" * 2000, b"\r\n" * 100, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 8):
        phone.send_raw(rubbish, gateway)
    await says_and_hears(call, 440)
    await call.hang_up()
    again = await phone.call(running.sip_uri("echo"))
    await again.hang_up()
    assert "Traceback" not in running.log("sip_gateway")
    assert (
        await running.metric("sip_gateway", "callbus_sip_events_total", event="received") > 250
    )  # a burst may overrun the socket
    await check_all_is_over(running)


async def test_malformed_and_foreign_rtp_is_counted_and_never_heard(
    running: Platform, phone: Softphone, feed: EventFeed
) -> None:
    before = len([event for event in feed.of(CallOffered) if event.callee == "echo"])
    call = await phone.call(running.sip_uri("echo"))
    await says_and_hears(call, 440)
    chance = random.Random(11)
    rubbish = [chance.randbytes(chance.randint(0, 400)) for _ in range(200)]
    rubbish = [bytes([data[0] & 0x3F]) + data[1:] if data else data for data in rubbish]  # none of RTP's version
    loud = pack_header(0, 1, 1, 0xBAD) + Law.PCMU.encode(tone(2000, 20, 8000, -3))
    assert call.negotiated is not None
    target = (call.negotiated.remote_host, call.negotiated.remote_port)
    for number, data in enumerate(rubbish):
        call.send_rtp(data)
        phone.send_raw(loud, target)  # from another port than the caller's
        if number % 10 == 0:
            await asyncio.sleep(0.01)
    began = len(call.heard)
    await says_and_hears(call, 660)
    assert best_correlation(tone(2000, 200, 8000), bytes(call.heard[began:]))[0] < 0.3
    await call.hang_up()
    ended = await record(feed, "echo", before + 1)
    assert ended.media is not None
    assert ended.media.rtp_malformed + ended.media.rtp_foreign >= 390
    assert ended.media.rtp_lost == 0
    assert "Traceback" not in running.log("sip_gateway")


@pytest.mark.parametrize(
    ("callee", "status", "reason"),
    [("niemand", 404, Reason.NO_ROUTE), ("lost", 480, Reason.UNKNOWN_AGENT)],
)
async def test_a_callee_that_does_not_exist_is_a_status_a_record_and_a_log_line(
    running: Platform, phone: Softphone, feed: EventFeed, callee: str, status: int, reason: Reason
) -> None:
    with pytest.raises(CallRejected) as caught:
        await phone.call(running.sip_uri(callee), timeout_s=5)
    assert caught.value.status == status
    assert (await record(feed, callee)).termination.reason is reason
    assert any(line.get("reason") == reason and line["event"] == "call refused" for line in all_lines(running))


def all_lines(running: Platform) -> list[dict[str, Any]]:
    return [json.loads(line) for line in running.log("sip_gateway").splitlines() if line.startswith("{")]


async def test_an_offer_without_a_common_codec_is_488_a_record_and_a_log_line(
    running: Platform, phone: Softphone, feed: EventFeed
) -> None:
    before = len(feed.of(CallEnded))
    text = INVITE.format(port=phone.address[1], n="codec", to="codec", sdp=SDP, length=len(SDP))
    phone.send_raw(text.encode(), ("127.0.0.1", running.sip_port))
    await until(lambda: Reason.NO_COMMON_CODEC in {end.termination.reason for end in feed.of(CallEnded)[before:]})
    assert any(line.get("reason") == Reason.NO_COMMON_CODEC for line in all_lines(running))


async def test_a_telephone_answers_normally_after_all_that(running: Platform, phone: Softphone) -> None:
    await hears_a_normal_greeting(running, phone)
    await check_all_is_over(running)
