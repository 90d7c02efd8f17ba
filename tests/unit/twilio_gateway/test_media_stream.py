"""The stream's core against messages as Twilio documents them, and as it should never send them."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from services.twilio_gateway.media_stream import (
    GAP_S,
    MAX_MESSAGE_BYTES,
    WINDOW,
    Close,
    Ended,
    Heard,
    MarkReturned,
    MediaStream,
    Phase,
    Pressed,
    Started,
)

DATA = Path(__file__).parent / "data"
STREAM = "MZ18ad3ab5a668481ce02b83e7395059f0"


def frame(number: int) -> bytes:
    return bytes((number * 7 + index) % 256 for index in range(160))


def run(name: str):
    """All actions of a recorded sequence, 20 ms a message, and the core."""
    core, actions = MediaStream(), []
    for number, line in enumerate((DATA / name).read_text().splitlines()):
        now = number * 0.02
        actions += [*core.expire(now), *core.receive(line, now)]
    return core, actions


def numbers(actions) -> list[int]:
    """Which frames were heard, in order."""
    known = {frame(number): number for number in range(10)}
    return [known[action.ulaw] for action in actions if isinstance(action, Heard)]


def started() -> MediaStream:
    core = MediaStream()
    for line in (DATA / "conversation.jsonl").read_text().splitlines()[:2]:
        core.receive(line, 0.0)
    return core


def media(number: int, payload: bytes = b"\xff" * 160) -> str:
    body = {"track": "inbound", "payload": base64.b64encode(payload).decode()}
    return json.dumps({"event": "media", "sequenceNumber": str(number), "streamSid": STREAM, "media": body})


def test_a_conversation_as_documented():
    core, actions = run("conversation.jsonl")
    assert actions[0] == Started(
        STREAM, "CA388c6b9b1f2b1d1a5a3b9c3b7a1e2f01", "AC" + "0" * 32,
        {"token": "t-1", "number": "+49301234567", "agent": "bestellung"},
    )  # fmt: skip
    assert numbers(actions) == [0, 1, 2, 3, 4]
    assert [action for action in actions if not isinstance(action, Heard)][1:] == [
        MarkReturned("s1"), Pressed("1"), Ended("stop"),
    ]  # fmt: skip
    assert core.phase is Phase.ENDED
    assert core.counters["lost"] == core.counters["malformed"] == 0


def test_messages_out_of_order_are_put_in_order():
    core, actions = run("out_of_order.jsonl")
    assert numbers(actions) == [0, 1, 2, 3, 4]
    assert core.counters["lost"] == 0


def test_duplicates_are_heard_once_and_a_second_start_is_refused():
    core, actions = run("duplicated.jsonl")
    assert numbers(actions) == [0, 1, 2, 3, 4]
    assert len([action for action in actions if isinstance(action, Started)]) == 1
    assert core.counters["duplicate"] == 4
    assert core.counters["start_repeated"] == 1
    assert actions.count(Ended("stop")) == 1


def test_the_outbound_track_is_ignored_and_leaves_no_gap():
    core, actions = run("both_tracks.jsonl")
    assert numbers(actions) == [0, 1]
    assert core.counters["outbound"] == 2
    assert core.counters["lost"] == 0


def test_what_was_cut_short_is_counted_and_its_gap_given_up_in_time():
    core, actions = run("truncated.jsonl")
    assert numbers(actions) == [0, 2, 3, 4]
    assert core.counters["malformed"] == 6
    assert core.counters["lost"] == 1
    assert actions[-1] == Ended("stop")


def test_what_is_unknown_or_wrong_uses_up_its_number_and_nothing_else():
    core, actions = run("unknown.jsonl")
    assert numbers(actions) == [0, 1, 2]
    assert (core.counters["unknown"], core.counters["malformed"], core.counters["foreign"]) == (1, 2, 1)
    assert core.counters["lost"] == 0


@pytest.mark.parametrize("in_order", [True, False])
def test_a_missing_stop_is_made_up_for_by_the_close(in_order):
    core, actions = run("without_stop.jsonl")
    assert not any(isinstance(action, Ended) for action in actions)
    assert core.closed(in_order=in_order) == [Ended("closed" if in_order else "lost")]
    assert core.closed(in_order=True) == []


def test_stop_and_close_end_it_once():
    core, actions = run("conversation.jsonl")
    assert actions[-1] == Ended("stop")
    assert core.closed(in_order=True) == core.closed(in_order=False) == []
    assert core.receive(media(99), 9.0) == []
    assert core.counters["after_end"] == 1


def test_what_waits_behind_a_gap_is_heard_before_the_end():
    core = started()
    assert core.receive(media(4, b"\x01" * 160), 0.0) == []
    assert core.closed(in_order=True) == [Heard(b"\x01" * 160), Ended("closed")]


def test_a_gap_is_given_up_after_its_time_and_what_comes_then_is_too_late():
    core = started()
    assert core.receive(media(3), 1.0) == []
    assert core.expire(1.0 + GAP_S / 2) == []
    assert core.expire(1.0 + GAP_S) == [Heard(b"\xff" * 160)]
    assert core.receive(media(2), 1.1) == []
    assert (core.counters["lost"], core.counters["duplicate"]) == (1, 1)


def test_a_gap_is_given_up_when_the_window_is_full():
    core, heard = started(), []
    for number in range(3, 4 + WINDOW):
        heard += core.receive(media(number), 1.0)
    assert len(heard) == WINDOW + 1


def test_each_of_two_gaps_is_given_up_after_its_own_time():
    core = started()
    core.receive(media(3), 1.00)
    core.receive(media(5), 1.05)
    assert len(core.expire(1.00 + GAP_S)) == 1
    assert core.expire(1.09) == []
    assert len(core.expire(1.00 + 2 * GAP_S)) == 1


def test_a_message_above_64_kib_closes_the_stream_with_a_reason():
    core = started()
    close, ended = core.receive(media(2, b"\xff" * MAX_MESSAGE_BYTES), 0.0)
    assert isinstance(close, Close)
    assert close.code == 1009
    assert "65536 are the limit" in close.reason
    assert len(close.reason) < 124  # RFC 6455 §5.5: a control frame has at most 125 bytes, two of them the code
    assert ended == Ended("refused")


@pytest.mark.parametrize("size", [1, 159, 160, 161, 8000])
def test_payloads_of_any_size_are_passed_on(size):
    assert started().receive(media(2, b"\x55" * size), 0.0) == [Heard(b"\x55" * size)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"callSid": ""}, "does not name"),
        ({"callSid": 7}, "does not name"),
        ({"mediaFormat": {"encoding": "audio/x-l16", "sampleRate": 16000}}, "only audio/x-mulaw"),
    ],
)
def test_a_start_that_nothing_can_be_done_with_closes_the_stream(change, why):
    message = json.loads((DATA / "conversation.jsonl").read_text().splitlines()[1])
    message["start"] |= change
    close, ended = MediaStream().receive(json.dumps(message), 0.0)
    assert (close.code, ended) == (1008, Ended("refused"))
    assert why in close.reason


def test_nothing_counts_before_start():
    core = MediaStream()
    assert core.receive(media(1), 0.0) == []
    assert core.receive('{"event":"stop"}', 0.0) == []
    assert core.counters["early"] == 2
    assert core.phase is Phase.NEW


def test_messages_without_a_number_are_taken_as_they_come():
    core = started()
    message = json.loads(media(2))
    del message["sequenceNumber"]
    assert core.receive(json.dumps(message), 0.0) == [Heard(b"\xff" * 160)]
    assert core.receive(media(2), 0.0) == [Heard(b"\xff" * 160)]


NAMES = st.sampled_from(["track", "payload", "digit", "name", "start", "media"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
    max_leaves=5,
)
EVENTS = {"event": st.sampled_from(["start", "media", "dtmf", "mark", "stop", "x"])}
FIELDS = dict.fromkeys(("sequenceNumber", "media", "dtmf", "mark", "start", "streamSid"), JSON)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.fixed_dictionaries(EVENTS, optional=FIELDS), max_size=10))
def test_no_message_raises_and_the_end_comes_at_most_once(messages):
    core, actions = started(), []
    for number, message in enumerate(messages):
        actions += core.receive(json.dumps(message), number * 0.02) + core.expire(number * 0.02)
    actions += core.closed(in_order=True)
    assert sum(isinstance(action, Ended) for action in actions) == 1


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(WINDOW)), st.lists(st.integers(0, WINDOW - 1), max_size=5))
def test_any_order_within_the_window_and_any_duplicate_give_each_frame_once(order, again):
    core, actions = started(), []
    for number in [*order, *again]:
        actions += core.receive(media(2 + number, frame(number)), 0.0)
    assert numbers(actions) == list(range(WINDOW))
