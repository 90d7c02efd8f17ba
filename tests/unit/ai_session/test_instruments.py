"""A worker's metrics: a turn's latency in its parts, barge-ins, tools, tokens and money, the providers' errors."""

from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
import pytest

from libs.contracts.events import AgentTurn, LatencyMeasured, SessionTrouble, ToolReturned, UsageReported
from services.ai_session import instruments
from services.ai_session.endpointing import FRAME_S, WINDOW_FRAMES, Endpointing
from services.ai_session.instruments import BARGE_INS, COST, TOKENS, TOOL, TROUBLES, TURN, TURN_STAGE, SessionMeter

STAGES = ("endpointing", "tools", "model", "worker", "bus", "playout")


def event(kind, **fields):
    return kind(event_id="c:wk1:1", org="default", call="c", at=datetime.now(UTC), epoch=1, **fields)


def sums(metric, *keys):
    return {key: (sum(metric.series(key).counts), metric.series(key).total) for key in keys}


def grown(metric, keys, feed):
    """What a histogram's series got from `feed`: their sums, where they got anything."""
    before = sums(metric, *keys)
    feed()
    after = sums(metric, *keys)
    return {key[0]: round(after[key][1] - before[key][1], 6) for key in keys if after[key][0] > before[key][0]}


def stages_of(latency, ping_s=0.001, backend="realtime"):
    meter = SessionMeter(backend, lambda: ping_s)
    return grown(TURN_STAGE, [(stage, backend) for stage in STAGES], lambda: meter.published(latency))


def latency(delta, frame, heard, tools=0.0):
    return event(
        LatencyMeasured,
        response="r",
        stopped_to_first_delta_ms=delta,
        stopped_to_first_frame_ms=frame,
        stopped_to_heard_ms=heard,
        tools_ms=tools,
    )


def test_the_parts_of_a_turn_add_up_to_its_latency():
    turn = latency(900, 902, 930, tools=300)
    parts = stages_of(turn)
    assert parts == {"tools": 0.3, "model": 0.6, "worker": 0.002, "bus": 0.002, "playout": 0.026}
    assert sum(parts.values()) == pytest.approx(0.93)


def test_a_turn_without_tools_has_no_part_for_them():
    assert "tools" not in stages_of(latency(500, 501, 520))


def test_a_bus_that_was_not_measured_counts_as_playout():
    assert stages_of(latency(500, 501, 520), ping_s=None)["playout"] == 0.019


def test_no_part_is_longer_than_what_it_is_a_part_of():
    parts = stages_of(latency(100, 101, 110, tools=400), ping_s=0.5)
    assert parts == {"tools": 0.1, "model": 0.0, "worker": 0.001, "bus": 0.009, "playout": 0.0}


def test_a_greeting_has_no_latency():
    assert stages_of(event(LatencyMeasured, response="r")) == {}


def test_latency_goes_by_backend():
    meter = SessionMeter("pipeline", lambda: None)
    turned = grown(TURN, [("pipeline",), ("realtime",)], lambda: meter.published(latency(500, 501, 520)))
    assert turned == {"pipeline": 0.52}


def test_barge_ins_are_confirmed_by_a_cut_and_false_when_the_agent_goes_on():
    meter, before = SessionMeter("live", lambda: None), BARGE_INS.values()
    turn = {"item": "i", "response": "r", "text": "a b", "heard_text": "a", "audio_ms": 100, "heard_ms": 50}
    meter.published(event(AgentTurn, **turn, interrupted=True))
    meter.published(event(AgentTurn, **turn))
    meter.went_on()
    after = BARGE_INS.values()
    assert after["confirmed", "live"] == before["confirmed", "live"] + 1
    assert after["false", "live"] == before["false", "live"] + 1


def test_tools_tokens_money_and_troubles_are_counted_from_events():
    meter = SessionMeter("realtime", lambda: None)
    took = sums(TOOL, ("t", "error"))["t", "error"][0]
    meter.published(event(ToolReturned, tool_call_id="1", name="t", ok=False, took_ms=1200))
    assert sums(TOOL, ("t", "error"))["t", "error"][0] == took + 1
    usage = event(
        UsageReported, source="response", model="m", reference="r", tokens={"audio_in": 7}, seconds=2.0, cost_usd=0.25
    )
    tokens, cost = TOKENS.values().get(("m", "response", "audio_in"), 0), COST.values().get(("m", "response"), 0)
    meter.published(usage)
    assert TOKENS.values()["m", "response", "audio_in"] == tokens + 7
    assert COST.values()["m", "response"] == cost + 0.25
    troubles = TROUBLES.values().get(("realtime", "stalled", "false"), 0)
    meter.published(event(SessionTrouble, code="stalled", detail="a text that must not be a label"))
    assert TROUBLES.values()["realtime", "stalled", "false"] == troubles + 1


def test_errors_of_providers_are_told_by_stage():
    found = instruments.provider_errors(
        {"lost_stalled": 2, "spare_opened": 5, "error_events": 1},
        {"chat_failed": 3, "chat_dialect": 1, "discarded": 4},
        {"elevenlabs_unreachable": 6, "retries": 7},
    )
    assert found == {
        ("session", "openai", "lost_stalled"): 2,
        ("session", "openai", "lost_closed_1006"): 0,  # what an outage begins with is there before it
        ("session", "openai", "error_events"): 1,
        ("session", "openai", "configuration_refused"): 0,
        ("chat", "openai", "failed"): 3,
        ("transcription", "openai", "failed"): 0,
        ("speech", "elevenlabs", "unreachable"): 6,
    }


def test_open_connections_are_counted_once_each():
    one, other = object(), object()
    instruments.connection_opened(one, "live")
    instruments.connection_opened(other, "live")
    before = instruments.open_connections()["live"]
    for _ in range(2):
        instruments.connection_closed(one, "live")
    assert instruments.open_connections()["live"] == before - 1
    instruments.connection_closed(other, "live")


def test_sockets_are_in_use_while_a_request_is_under_way():
    line = object()
    before = instruments.sockets_in_use()
    instruments.connection_opened(line, "realtime")
    with suppress(OSError), instruments.request_under_way("chat", "openai"):
        now = instruments.sockets_in_use()
        raise OSError
    assert now["chat", "openai"] == before.get(("chat", "openai"), 0) + 1
    assert now["session", "openai"] == before["session", "openai"] + 1
    instruments.connection_closed(line, "realtime")
    assert instruments.sockets_in_use() == {("chat", "openai"): 0, **before}


def frames(level, count, seed=1):
    noise = np.random.default_rng(seed).normal(0, level, (count, 160))
    return [row.astype("<i2").tobytes() for row in noise]


@pytest.mark.parametrize("quiet", [0, 1, 25, 60])
def test_the_silence_before_a_turns_end_is_found_in_the_audio(quiet):
    endpointing = Endpointing()
    for pcm in [*frames(3000, 80), *frames(20, quiet)]:
        endpointing.fed(pcm)
    assert endpointing.silence_s() == pytest.approx(quiet * FRAME_S)


def test_speech_over_a_noisy_line_is_told_from_the_noise():
    endpointing = Endpointing()
    for pcm in [*frames(5000, 50), *frames(150, 30)]:
        endpointing.fed(pcm)
    assert endpointing.silence_s() == pytest.approx(30 * FRAME_S)


def test_without_a_sound_there_is_nothing_to_tell():
    endpointing = Endpointing()
    assert endpointing.silence_s() is None
    for pcm in frames(10, 2 * WINDOW_FRAMES):
        endpointing.fed(pcm)
    assert endpointing.silence_s() is None


def test_frames_of_another_rate_are_left_out():
    endpointing = Endpointing()
    endpointing.fed(bytes(960))
    for pcm in [*frames(3000, 10), *frames(20, 5)]:
        endpointing.fed(pcm)
    assert endpointing.silence_s() == pytest.approx(5 * FRAME_S)
