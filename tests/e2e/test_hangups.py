"""Hanging up, redialling and late acceptances: no old state in a new call, no session that nobody wants.

The model is the rehearsal server, in this process; an agent's model is named after what its sessions suffer.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio
from aiohttp import web

from libs.audio.compare import best_correlation
from libs.audio.wav import read_wav
from libs.contracts.agent import AgentConfig
from libs.contracts.config import RouteConfig
from libs.contracts.events import AgentText, AgentTurn, CallClaimed, CallEnded, CallerTurn, CallOffered, WorkerLost
from libs.contracts.termination import Reason
from libs.softphone.phone import CallRejected, PhoneCall, Softphone
from services.rehearsal.faults import Fault, parse_fault
from services.rehearsal.scenario import Scenario, Turn
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from services.rehearsal.speech import Speech
from tests.support.platform import EventFeed, Platform, platform

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLER = Path(__file__).resolve().parents[2] / "services" / "rehearsal" / "clips" / "caller"
GREETING = "Guten Tag, Sanitärgroßhandel Muster."
ANSWER = (
    "Ab hundert Stück bekommen Sie außerdem einen Rabatt, und ab fünfhundert Euro liefern wir frei Haus. "
    "Dazu gibt es Doppelnippel, Kappen und Verschraubungen."
)
SCENARIO = Scenario(
    name="shop", greeting=GREETING, turns=[Turn(caller="Haben Sie auch Übergangsmuffen, 22 auf 15?", answer=ANSWER)]
)
LIKE, UNLIKE = 0.75, 0.4  # a stall of a busy machine may leave a gap in what is heard; other speech has below 0.3
REFUSED = {"refused-once": 1, "refused-always": 1000}


class Endpoint(Rehearsal):
    """Refuses the first sessions of some models."""

    asked: ClassVar[Counter[str]] = Counter()

    def take_faults(self, request: web.Request, endpoint: str, *, turn: int | None = None) -> list[Fault]:
        name = request.query.get("model", "")
        self.asked[name] += 1
        return [parse_fault("refuse:status=401")] if self.asked[name] <= REFUSED.get(name, 0) else []

    def open_sessions(self) -> int:
        return int(self.metrics.registry.get_sample_value("rehearsal_sessions_active") or 0)


def documents() -> list[AgentConfig | RouteConfig]:
    models = {"shop": "gpt-realtime-2.1", **{name: name for name in REFUSED}}
    agents = [AgentConfig(name=name, model=model, greeting=GREETING) for name, model in models.items()]
    return [*agents, *(RouteConfig(name=name, match=(name,), agent=name) for name in models)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[Endpoint]:
    settings = RehearsalSettings(default_scenario="shop", speed=20, first_byte_ms=20, transcription_delay_ms=50)
    async with Endpoint.start(settings, scenarios=[SCENARIO]) as started:
        assert isinstance(started, Endpoint)
        yield started


def environment(endpoint: Rehearsal) -> dict[str, str]:
    """The sessions that there are, are calls': none is kept ready."""
    return {"OPENAI_BASE_URL": endpoint.base_url, "OPENAI_API_KEY": "rehearsal", "WORKER_SPARE_SESSIONS": "0"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(endpoint: Endpoint) -> AsyncIterator[Platform]:
    """One worker: whoever calls again gets the same."""
    async with platform(documents=documents(), worker_environment=environment(endpoint)) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(endpoint: Endpoint) -> AsyncIterator[Platform]:
    """Two workers."""
    async with platform(documents=documents(), workers=2, worker_environment=environment(endpoint)) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def phone() -> AsyncIterator[Softphone]:
    async with await Softphone.open() as opened:
        yield opened


@contextmanager
def frozen(running: Platform, name: str) -> Iterator[None]:
    """The process does nothing meanwhile; what is sent to it waits."""
    running.signal(name, signal.SIGSTOP)
    try:
        yield
    finally:
        running.signal(name, signal.SIGCONT)


async def until(happened: Callable[[], object], timeout_s: float = 8) -> None:
    """Wait for what has no event of its own in this process."""
    async with asyncio.timeout(timeout_s):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def sessions(running: Platform) -> float:
    return sum([await running.metric(name, "callbus_worker_sessions") for name in running.workers])


async def check_all_is_over(running: Platform, endpoint: Endpoint) -> None:
    """No call, no session at a worker, none at the model."""
    async with asyncio.timeout(8):
        while await sessions(running) or await running.metric("sip_gateway", "callbus_calls"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await until(lambda: endpoint.open_sessions() == 0)


async def known(running: Platform, workers: int) -> None:
    """The gateway knows that many workers."""
    async with asyncio.timeout(8):
        while await running.metric("sip_gateway", "callbus_workers") != workers:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def newest(feed: EventFeed) -> str:
    return feed.of(CallOffered)[-1].call


def heard_share(text: str, call: PhoneCall) -> float:
    """How much a call's audio is the clip of this text, from 0 to 1."""
    return best_correlation(Speech().pcm(text), bytes(call.heard))[0]


def caller_clip(name: str) -> bytes:
    index = json.loads((CALLER / "index.json").read_text("utf-8"))
    return read_wav((CALLER / index[name]["file"]).read_bytes()).pcm


async def test_after_a_hang_up_in_mid_answer_a_redial_finds_no_old_state(
    alone: Platform, endpoint: Endpoint, phone: Softphone
) -> None:
    async with alone.events() as feed:
        first = await phone.call(alone.sip_uri("shop"))
        await first.wait_for_speech()
        await first.wait_for_silence(500)
        await first.play(caller_clip("bestellung-2")).wait()
        await first.wait_for_speech()
        await asyncio.sleep(0.6)  # in mid-answer
        await first.hang_up()
        second = await phone.call(alone.sip_uri("shop"))
        await second.wait_for_speech()
        await second.wait_for_silence(1500)
        await second.hang_up()
        ends = await feed.wait_for(CallEnded, 2)
        old, new = (event.call for event in feed.of(CallOffered))
        assert [event.termination.reason for event in ends] == [Reason.CALLER_HUNG_UP] * 2
        await until(lambda: feed.of(AgentTurn, new))
    assert feed.of(CallClaimed, old)[0].wk == feed.of(CallClaimed, new)[0].wk
    assert [turn.text for turn in feed.of(AgentTurn, new)] == [GREETING]
    assert feed.of(CallerTurn, new) == []
    assert heard_share(GREETING, second) >= LIKE
    assert heard_share(ANSWER, second) < UNLIKE
    assert [text.text for text in feed.of(AgentText, new)] == [GREETING]
    begun = [text.text for text in feed.of(AgentText, old)]
    assert begun[0] == GREETING
    assert len(begun) == 2  # the answer's second sentence was never begun
    media = ends[1].media
    assert media is not None
    assert media.dn_fenced <= 1  # the frame that proves the claim may come before the acceptance
    assert len({truth.session_id for truth in endpoint.sessions.all()}) == 2
    await check_all_is_over(alone, endpoint)


async def test_a_caller_who_hangs_up_during_the_offer_leaves_no_session(
    alone: Platform, endpoint: Endpoint, phone: Softphone
) -> None:
    async with alone.events() as feed:
        before = len(endpoint.sessions.all())
        with frozen(alone, "ai_session-1"):
            call = await phone.dial(alone.sip_uri("shop"), from_user="+493055500001")
            await call.wait_ringing()
            end = await call.cancel()
            assert end.status == 487
            ended = await feed.end_of("+493055500001")
        assert ended.termination.reason is Reason.CALLER_CANCELLED
        await known(alone, 1)
        await check_all_is_over(alone, endpoint)
        assert await alone.metric("ai_session-1", "callbus_worker_sessions") == 0
        again = await phone.call(alone.sip_uri("shop"))
        await again.wait_for_speech()
        await again.hang_up()
        assert len(endpoint.sessions.all()) <= before + 2  # the unwanted one, if any, was opened and closed at once
        assert len([event for event in feed.of(CallEnded) if event.call == ended.call]) == 1
    await check_all_is_over(alone, endpoint)


async def test_a_worker_that_accepts_too_late_is_released(
    alone: Platform, endpoint: Endpoint, phone: Softphone
) -> None:
    await known(alone, 1)
    async with alone.events() as feed:
        with frozen(alone, "ai_session-1"):
            with pytest.raises(CallRejected) as caught:
                await phone.call(alone.sip_uri("shop"), from_user="+493055500002", timeout_s=5)
            assert caught.value.status == 503
            ended = await feed.end_of("+493055500002")
        assert ended.termination.reason is Reason.NO_WORKER
        await known(alone, 1)
        await check_all_is_over(alone, endpoint)
        again = await phone.call(alone.sip_uri("shop"))
        await again.wait_for_speech()
        await again.wait_for_silence(500)
        await again.hang_up()
        assert heard_share(GREETING, again) >= LIKE
        assert len([event for event in feed.of(CallEnded) if event.call == ended.call]) == 1
    await check_all_is_over(alone, endpoint)


@pytest.mark.parametrize("name", ["ai_session-1", "ai_session-2"])
async def test_a_frozen_worker_is_passed_over_and_never_heard(
    pair: Platform, endpoint: Endpoint, phone: Softphone, name: str
) -> None:
    await known(pair, 2)
    async with pair.events() as feed:
        with frozen(pair, name):
            call = await phone.call(pair.sip_uri("shop"), timeout_s=5)
            await call.wait_for_speech()
        await call.wait_for_silence(800)
        await known(pair, 2)
        await until_one_session(pair)
        heard = bytes(call.heard)
        await call.hang_up()
        await until(lambda: feed.of(CallOffered) and feed.of(CallEnded, newest(feed)))
        claims = feed.of(CallClaimed, newest(feed))
    assert len(claims) == 1
    greeting = Speech().pcm(GREETING)
    correlation, at = best_correlation(greeting, heard)
    assert correlation >= LIKE
    assert best_correlation(greeting, heard[2 * at + len(greeting) :])[0] < UNLIKE  # once, and not again
    await check_all_is_over(pair, endpoint)


async def until_one_session(running: Platform) -> None:
    async with asyncio.timeout(5):
        while await sessions(running) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_when_a_worker_fails_to_reach_the_model_the_next_one_serves(
    pair: Platform, endpoint: Endpoint, phone: Softphone
) -> None:
    await known(pair, 2)
    async with pair.events() as feed:
        call = await phone.call(pair.sip_uri("refused-once"), timeout_s=8)
        await call.wait_for_speech()
        await call.hang_up()
        await until(lambda: [e for e in feed.of(CallOffered) if e.callee == "refused-once"])
        (offered,) = [event for event in feed.of(CallOffered) if event.callee == "refused-once"]
        await until(lambda: feed.of(CallEnded, offered.call))
        claims, lost = feed.of(CallClaimed, offered.call), feed.of(WorkerLost, offered.call)
    assert endpoint.asked["refused-once"] == 2
    assert claims[-1].epoch == 2
    if len(claims) == 2:  # else the first acceptance came too late, on a busy machine: it counts for nothing
        assert claims[0].wk != claims[1].wk
        assert [(event.wk, event.cause) for event in lost] == [(claims[0].wk, "failed")]
    assert feed.of(CallEnded, offered.call)[0].termination.reason is Reason.CALLER_HUNG_UP
    await check_all_is_over(pair, endpoint)


async def test_when_no_worker_reaches_the_model_the_call_ends_with_the_models_reason(
    pair: Platform, endpoint: Endpoint, phone: Softphone
) -> None:
    await known(pair, 2)
    async with pair.events() as feed:
        with pytest.raises(CallRejected) as caught:
            await phone.call(pair.sip_uri("refused-always"), timeout_s=8)
        assert caught.value.status == 503
        await until(lambda: [e for e in feed.of(CallOffered) if e.callee == "refused-always"])
        (offered,) = [event for event in feed.of(CallOffered) if event.callee == "refused-always"]
        await until(lambda: feed.of(CallEnded, offered.call))
        (ended,) = feed.of(CallEnded, offered.call)
    assert endpoint.asked["refused-always"] == 2  # each worker asked once; a refused key is not tried again
    assert ended.termination.reason is Reason.MODEL_REFUSED
    assert "401" in ended.termination.detail
    await check_all_is_over(pair, endpoint)


async def test_sigterm_of_the_gateway_lets_the_call_finish_and_refuses_new_ones(
    pair: Platform, endpoint: Endpoint, phone: Softphone
) -> None:
    """The last test here: the gateway of `pair` is gone afterwards. It drains for 2 s, as `callbus up` sets it."""
    await known(pair, 2)
    async with pair.events() as feed:
        call = await phone.call(pair.sip_uri("shop"))
        await call.wait_for_speech()
        pair.signal("sip_gateway", signal.SIGTERM)
        await until(lambda: '"event":"draining"' in pair.log("sip_gateway").replace('": "', '":"'))
        with pytest.raises(CallRejected) as caught:
            await phone.call(pair.sip_uri("shop"), timeout_s=3)
        assert caught.value.status == 503
        assert call.ended is None
        end = await call.wait_ended(5)
        assert end.cause == "remote_bye"
        ends: Counter[Reason] = Counter()
        async with asyncio.timeout(5):
            while ends[Reason.DRAINING] < 2:
                ends = Counter(event.termination.reason for event in feed.of(CallEnded))
                await asyncio.sleep(0.02)
