"""What each service process really shows at /metrics, against its definitions, after a call that uses all of them.

The platform is the whole one: every service, the rehearsal as model, a caller who asks for a product while recorded.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from itertools import product

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from cli.demo.caller import read_clips
from cli.metrics_document import GATEWAYS, metrics_of
from libs.contracts.agent import AgentConfig
from libs.contracts.events import (
    AgentTurn,
    CallClaimed,
    CallEnded,
    LatencyMeasured,
    RecordingStored,
    ToolReturned,
    UsageReported,
)
from libs.contracts.termination import Reason
from libs.runtime.metrics import OTHER
from libs.softphone.phone import Softphone
from tests.integration.peers import sample_documents
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, EventFeed, Platform, platform

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SERVICES = ("sip_gateway", "browser_gateway", "ai_session-1", "transcript_store", "catalog_tools", "recorder")
OF_THE_CLIENT = re.compile("process_|python_")
CALLEE = "bestellung"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Platform]:
    """All services; a caller has asked for a product and hung up, and everything about that is stored."""
    documents = [
        document.model_copy(update={"recording": "on"}) if isinstance(document, AgentConfig) else document
        for document in sample_documents()
    ]
    async with (
        platform(documents=documents, catalog=True, store=True, recorder=True, rehearsal=True, browser=True) as started,
        started.events() as feed,
        await Softphone.open() as phone,
    ):
        await talk(started, phone, feed)
        yield started


async def talk(running: Platform, phone: Softphone, feed: EventFeed) -> None:
    """A call with a greeting, a question, a tool call and an answer."""
    call = await phone.call(running.sip_uri(CALLEE))
    await feed.wait_for(AgentTurn, 1, timeout_s=30)
    await call.play(read_clips()["bestellung-1"].pcm).wait()
    await feed.wait_for(ToolReturned, 1, timeout_s=30)
    await feed.wait_for(LatencyMeasured, 1, timeout_s=30)
    await feed.wait_for(UsageReported, 1, timeout_s=30)
    await call.hang_up()
    await feed.wait_for(CallEnded, 1)
    await feed.wait_for(RecordingStored, 1)
    leaving = AsyncRetrying(stop=stop_after_delay(10), wait=wait_fixed(0.1), retry=retry_if_result(bool))
    await leaving(running.metric, "sip_gateway", "callbus_calls")
    for name in ("callbus_worker_sessions", "callbus_model_connections"):  # a model may owe a transcript
        await leaving(running.metric, "ai_session-1", name)


async def until(running: Platform, service: str, name: str, least: float = 1, **labels: str) -> float:
    """The metric, once it is at least this."""
    waiting = AsyncRetrying(
        stop=stop_after_delay(10),
        wait=wait_fixed(0.2),
        retry=retry_if_result(lambda value: value < least),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else 0.0,
    )
    return await waiting(running.metric, service, name, **labels)  # type: ignore[no-any-return]


@pytest.mark.parametrize("process", SERVICES)
async def test_a_page_shows_what_is_defined_and_nothing_else(running: Platform, process: str):
    service = process.removesuffix("-1")
    defined, shown = metrics_of(service), set()
    for family in text_string_to_metric_families(await running.get(process, "/metrics")):
        if OF_THE_CLIENT.match(family.name):
            continue
        name = family.name + "_total" if family.type == "counter" else family.name
        assert name in defined, f"{service} shows {name}, which docs/metrics.md does not know"
        metric = defined[name]
        shown.add(name)
        assert (family.type, family.documentation) == (metric.kind, metric.text)
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key != "le"}
            assert labels.keys() == metric.labels.keys(), name
            for key, value in labels.items():
                assert metric.labels[key].allows(value), f"{name}: {key} is {value!r}"
                assert value != OTHER, f"{name}: a value of {key} is not among those of docs/metrics.md"
    assert shown == set(defined), "defined, but not shown"


@pytest.mark.parametrize("process", SERVICES)
async def test_every_service_says_what_it_is_and_how_its_loop_and_bus_are(running: Platform, process: str):
    assert await running.metric(process, "callbus_build_info", service=process.removesuffix("-1")) == 1
    for link in ("media", "control"):
        assert await running.metric(process, "callbus_bus_link_up", link=link) == 1
        assert await until(running, process, "callbus_bus_ping_seconds_count", link=link) >= 1
    assert await until(running, process, "callbus_event_loop_lag_seconds_count", 4) >= 4
    assert await running.metric(process, "process_cpu_seconds_total") > 0
    at_its_start = 1
    assert await running.metric(process, "callbus_garbage_collection_seconds_count", generation="2") >= at_its_start


async def test_a_gateway_shows_the_call_from_its_offer_to_its_end(running: Platform):
    async def of(name: str, **labels: str) -> float:
        return await running.metric("sip_gateway", name, **labels)

    assert await of("callbus_calls_started_total", direction="inbound", entrance="sip") == 1
    assert await of("callbus_calls_ended_total", result="success", reason="caller_hung_up") == 1
    ends = [
        dict(labels) for name, labels in await running.metrics("sip_gateway") if name == "callbus_calls_ended_total"
    ]
    assert {(end["direction"], end["reason"]) for end in ends} == set(product(("inbound", "outbound"), Reason))
    assert await of("callbus_calls") == 0
    assert await of("callbus_call_setup_seconds_count", direction="inbound") == 1
    assert await of("callbus_call_talk_seconds_sum") > 2
    assert await of("callbus_offer_seconds_count", answer="accepted") == 1
    assert await of("callbus_claim_seconds_count", cause="first") == 1
    assert await of("callbus_bus_one_way_seconds_count") > 20
    assert 0 < await of("callbus_bus_one_way_seconds_sum") / await of("callbus_bus_one_way_seconds_count") < 0.1
    assert await of("callbus_ticker_lateness_seconds_count") > 100
    assert await of("callbus_rtp_packets_total", event="received") > 100
    assert await of("callbus_frames_total", direction="up", event="published") > 100
    assert await of("callbus_frames_total", direction="down", event="played") > 50
    assert await of("callbus_rtp_jitter_seconds_count") == 1
    assert await of("callbus_workers") == 1


async def test_a_worker_shows_turns_tools_and_money(running: Platform):
    async def of(name: str, **labels: str) -> float:
        return await running.metric("ai_session-1", name, **labels)

    turns = await of("callbus_turn_latency_seconds_count", backend="realtime")
    assert turns >= 1
    for stage in ("model", "worker", "bus", "playout"):
        assert await of("callbus_turn_stage_seconds_count", stage=stage, backend="realtime") == turns
    assert await of("callbus_turn_stage_seconds_count", stage="endpointing", backend="realtime") >= 1
    parts = [
        await of("callbus_turn_stage_seconds_sum", stage=s) for s in ("tools", "model", "worker", "bus", "playout")
    ]
    assert sum(parts) == pytest.approx(await of("callbus_turn_latency_seconds_sum"), abs=0.01)
    assert await of("callbus_tool_call_seconds_count", outcome="ok") >= 1
    assert await of("callbus_tokens_total", source="response") > 0
    assert await of("callbus_cost_usd_total") > 0
    assert await of("callbus_model_open_seconds_count", outcome="opened") >= 1
    assert await of("callbus_model_connections") == 0
    assert await of("callbus_worker_offers_total", answer="accepted") == 1
    assert await of("callbus_worker_frames_total", direction="up", event="received") > 100
    assert await of("callbus_worker_sessions") == 0


async def test_the_store_shows_how_far_it_is_behind(running: Platform):
    stored = await until(running, "transcript_store", "callbus_store_events_total", 5, end="stored")
    assert stored >= 5
    assert await running.metric("transcript_store", "callbus_store_lag_seconds_count") >= 5
    assert await until(running, "transcript_store", "callbus_store_write_seconds_count") >= 1


async def test_the_recorder_and_the_tools_show_their_work(running: Platform):
    assert await running.metric("recorder", "callbus_recorder_recordings_total", outcome="stored") == 1
    assert await running.metric("recorder", "callbus_object_store_requests_total", outcome="done") >= 1
    assert await running.metric("catalog_tools", "callbus_catalog_requests_total", end="answered") >= 1
    assert await running.metric("catalog_tools", "callbus_catalog_products") > 100


async def test_counters_never_go_back_while_calls_come_and_go(running: Platform):
    """The sums of live and of ended calls are read at any moment."""
    seen: dict[object, float] = {}
    async with await Softphone.open() as phone:
        for _ in range(3):
            call = await phone.call(running.sip_uri(CALLEE))
            ending = asyncio.create_task(asyncio.sleep(0.4))
            while not ending.done():
                await check_growth(running, seen)
            await call.hang_up()
            for _ in range(10):
                await check_growth(running, seen)


async def check_growth(running: Platform, seen: dict[object, float]) -> None:
    """All counters of gateway and worker are at least what they were."""
    for process in (GATEWAYS[0], "ai_session-1"):
        for (name, labels), value in (await running.metrics(process)).items():
            if name.endswith("_total"):
                key = process, name, labels
                assert value >= seen.get(key, 0.0), key
                seen[key] = value


async def test_a_failover_is_timed_by_the_cause_of_the_loss():
    """A platform of its own: with the other one's worker its metrics would be gone, too."""
    async with (
        platform(documents=[ECHO_AGENT, ECHO_ROUTE], workers=2) as alone,
        alone.events() as feed,
        await Softphone.open() as phone,
    ):
        call = await phone.call(alone.sip_uri("echo"))
        claimed = (await feed.wait_for(CallClaimed, 1))[0]
        [owner] = [name for name in alone.workers if claimed.wk in await alone.get(name, "/healthz")]
        alone.signal(owner, signal.SIGKILL)
        await feed.wait_for(CallClaimed, 2)
        assert await until(alone, "sip_gateway", "callbus_reclaim_seconds_count", cause="gone") == 1
        assert await alone.metric("sip_gateway", "callbus_reclaim_seconds_sum") < 2
        assert await alone.metric("sip_gateway", "callbus_claim_seconds_count", cause="failover") == 1
        assert await alone.metric("sip_gateway", "callbus_worker_losses_total", cause="gone") == 1
        assert await alone.metric("sip_gateway", "callbus_roster_events_total", event="gone") == 1
        assert await alone.metric("sip_gateway", "callbus_calls", state="talking") == 1
        await call.hang_up()
