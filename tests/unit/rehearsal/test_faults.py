import base64
import json

import pytest
from pydantic import ValidationError

from services.rehearsal.faults import parse_fault
from services.rehearsal.outputs import Abort, Close, Raw
from services.rehearsal.scenario import Scenario

from .driver import PCMU, Driver, kinds, of, one

LONG = Scenario(name="long", greeting="ein " * 60, turns=[{"caller": "ja", "answer": "zwei " * 60}])
DELTA = "response.output_audio.delta"


def speaking(**fault):
    driver = Driver(LONG, faults=[fault], session={"audio": PCMU})
    driver.send("response.create")
    return driver


@pytest.mark.parametrize("code", [1000, 1008, 1011, 1012, 1013, 4000])
def test_close_after_deltas_sends_nothing_more(code):
    driver = speaking(kind="close", code=code, after_deltas=3, reason="gone")
    found = driver.settle()
    assert len(of(found, DELTA)) == 3
    assert found[-1] == Close(code, "gone")
    assert driver.core.closed


def test_close_after_a_time():
    driver = Driver(faults=[{"kind": "close", "after_ms": 1500}])
    assert driver.until(1.4) == []
    assert driver.until(1.6) == [Close(1011)]


def test_1001_is_announced_by_session_expired():
    driver = Driver(faults=[{"kind": "close", "code": 1001, "after_ms": 10}])
    error, close = driver.until(1)
    assert error["error"]["code"] == "session_expired"
    assert close == Close(1001)


def test_1006_is_an_abort():
    assert speaking(kind="close", code=1006, after_deltas=1).settle()[-1] == Abort()


def test_a_fault_may_wait_for_a_turn():
    driver = Driver(LONG, faults=[{"kind": "abort", "turn": 1, "after_deltas": 2}], session={"audio": PCMU})
    driver.send("response.create")
    assert one(driver.settle(), "response.done")
    driver.turn()
    found = driver.settle()
    assert found[-1] == Abort()
    assert len(of(found, DELTA)) == 2


def test_a_stall_holds_the_rest_back():
    driver = speaking(kind="stall", after_deltas=2, duration_ms=4000)
    assert len(of(driver.until(3.9), DELTA)) == 2
    assert "response.done" in kinds(driver.settle())


def test_a_stall_for_good_never_ends():
    driver = speaking(kind="stall", after_deltas=2, duration_ms=0)
    driver.settle()
    assert "response.done" not in driver.types()


def test_a_slow_drip_is_slower_than_real_time_and_a_burst_comes_at_once():
    drip = speaking(kind="slow_drip", factor=0.5)
    drip.until(6.0)
    assert "response.done" not in drip.types()
    burst = speaking(kind="burst")
    assert "response.done" in kinds(burst.until(0.11))


def test_late_deltas_follow_the_cancel():
    driver = speaking(kind="late_deltas", deltas=2)
    driver.until(0.3)
    driver.send("response.cancel")
    assert kinds(driver.settle()) == [DELTA, DELTA]


def test_duplicate_deltas_repeat_the_audio():
    found = speaking(kind="duplicate_deltas", deltas=1).settle()
    audio = [frame["delta"] for frame in of(found, DELTA)]
    assert audio[0] == audio[1] != audio[2]


def test_shapes_of_broken_frames():
    bad = one_bent("malformed_base64")
    with pytest.raises(ValueError, match="base64"):
        base64.b64decode(bad["delta"], validate=True)
    with pytest.raises(json.JSONDecodeError):
        json.loads(one_bent("malformed_json").data)
    assert isinstance(one_bent("binary_frame").data, bytes)
    assert "delta" not in one_bent("missing_field")
    assert "x_rehearsal" in one_bent("extra_field")


def one_bent(kind):
    found = speaking(kind=kind).settle()
    whole = [f for f in found if isinstance(f, dict) and f["type"] == DELTA]
    raw = [f for f in found if isinstance(f, Raw)]
    return raw[0] if raw else whole[0]


def test_odd_byte_counts_split_samples():
    driver = Driver(LONG, faults=[{"kind": "odd_bytes"}], session={})
    driver.send("response.create")
    lengths = [len(base64.b64decode(f["delta"])) for f in of(driver.settle(), DELTA)]
    assert all(length % 2 for length in lengths[:-1])


def test_an_unknown_event_and_errors_can_be_thrown_in():
    assert "rehearsal.unknown" in speaking(kind="unknown_event", after_deltas=1).types() + kinds(
        speaking(kind="unknown_event", after_deltas=1).settle()
    )
    driver = speaking(kind="error", after_deltas=1, event_id="event_7", error_code="server_error")
    error = one(driver.settle(), "error")["error"]
    assert (error["code"], error["event_id"]) == ("server_error", "event_7")


def test_a_rate_limited_response_fails_without_items():
    response = one(speaking(kind="rate_limit").settle(), "response.done")["response"]
    assert response["status"] == "failed"
    assert response["status_details"]["error"]["code"] == "rate_limit_exceeded"
    assert response["output"] == []


def test_an_incomplete_response_names_its_reason():
    response = one(speaking(kind="incomplete", reason="content_filter").settle(), "response.done")["response"]
    assert response["status"] == "incomplete"
    assert response["status_details"]["reason"] == "content_filter"


def test_a_failed_transcription_is_reported_as_such():
    audio = {"input": PCMU["input"] | {"transcription": {"model": "gpt-transcribe"}}, "output": PCMU["output"]}
    driver = Driver(faults=[{"kind": "transcription_failed"}], session={"audio": audio})
    driver.turn()
    assert "conversation.item.input_audio_transcription.failed" in kinds(driver.settle())


def test_tool_arguments_can_be_invalid_json():
    step = {"calls": [{"tool": "t", "arguments": {"query": "lang genug"}}]}
    scenario = Scenario(name="s", greeting="g", turns=[{"caller": "c", "steps": [step], "answer": "a"}])
    tools = [{"type": "function", "name": "t", "parameters": {}}]
    driver = Driver(scenario, faults=[{"kind": "invalid_arguments"}], session={"audio": PCMU, "tools": tools})
    driver.turn()
    arguments = one(driver.settle(), "response.function_call_arguments.done")["arguments"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)


@pytest.mark.parametrize(("echo", "told"), [(True, "audio/pcm"), (False, "audio/pcmu")])
def test_pcm_may_come_although_pcmu_was_asked(echo, told):
    driver = Driver(faults=[{"kind": "pcm_instead", "echo": echo}], session={"audio": PCMU})
    assert driver.frames[-1]["session"]["audio"]["output"]["format"]["type"] == told
    driver.send("response.create")
    size = sum(len(base64.b64decode(f["delta"])) for f in of(driver.settle(), DELTA))
    assert size == 6 * 100 * 48


def test_session_updated_can_be_withheld():
    driver = Driver(faults=[{"kind": "no_session_updated"}])
    assert driver.update() == []
    assert kinds(driver.update()) == ["session.updated"]


def test_a_fault_in_a_url_is_read_and_its_mistakes_are_named():
    fault = parse_fault("close:code=1012,after_deltas=3")
    assert (fault.kind, fault.code, fault.after_deltas) == ("close", 1012, 3)
    with pytest.raises(ValidationError, match="colour"):
        parse_fault("close:colour=red")
    with pytest.raises(ValueError, match="name=value"):
        parse_fault("close:1012")
