import pytest

from .driver import PCMU, Driver, error_of, kinds, one


def updated(frames):
    return one(frames, "session.updated")["session"]


def test_only_fields_that_were_sent_change():
    driver = Driver(session={"audio": PCMU, "instructions": "eins"})
    session = updated(driver.update(audio={"output": {"voice": "cedar"}}))
    assert session["instructions"] == "eins"
    assert session["audio"]["output"] == {"format": {"type": "audio/pcmu"}, "voice": "cedar", "speed": 1.0}
    assert session["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500


def test_the_whole_session_is_echoed():
    session = updated(Driver().update(tools=[]))
    assert {"id", "model", "expires_at", "audio", "tools", "truncation", "instructions"} <= session.keys()


def test_another_kind_of_turn_detection_keeps_nothing_of_the_old_one():
    driver = Driver(session={"audio": PCMU})
    session = updated(driver.update(audio={"input": {"turn_detection": {"type": "semantic_vad"}}}))
    detection = session["audio"]["input"]["turn_detection"]
    assert "threshold" not in detection
    assert detection["eagerness"] == "auto"


def test_null_clears_turn_detection():
    session = updated(Driver().update(audio={"input": {"turn_detection": None}}))
    assert session["audio"]["input"]["turn_detection"] is None


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({"instructions": "x"}, "missing_required_parameter", "session.type"),
        ({"type": "other"}, "invalid_value", "session.type"),
        ({"type": "transcription"}, "invalid_parameter", "session.type"),
        ({"type": "realtime", "colour": 1}, "unknown_parameter", "session.colour"),
        (
            {"type": "realtime", "input_audio_format": "g711_ulaw"},
            "unknown_parameter",
            "session.input_audio_format",
        ),
        (
            {"type": "realtime", "audio": {"output": {"format": {"type": "audio/pcm"}}}},
            "missing_required_parameter",
            "session.audio.output.format.rate",
        ),
        (
            {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcmu", "rate": 8000}}}},
            "unknown_parameter",
            "session.audio.input.format.rate",
        ),
        (
            {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", "x": 1}}}},
            "unknown_parameter",
            "session.audio.input.turn_detection.x",
        ),
        ({"type": "realtime", "model": "gpt-realtime"}, "cannot_update_model", "session.model"),
        ({"type": "realtime", "instructions": 5}, "invalid_value", "session.instructions"),
        ({"type": "realtime", "output_modalities": ["text", "audio"]}, "invalid_value", "session.output_modalities"),
        (
            {"type": "realtime", "audio": {"output": {"speed": 3}}},
            "invalid_value",
            "session.audio.output.speed",
        ),
    ],
)
def test_a_faulty_update_names_the_parameter_and_changes_nothing(session, code, param):
    driver = Driver()
    before = dict(driver.frames[0]["session"])
    error = error_of(driver.send("session.update", session=session, event_id="event_mine"))
    assert (error["code"], error["param"], error["event_id"]) == (code, param, "event_mine")
    assert updated(driver.update()) == before


def test_the_voice_is_locked_once_there_is_assistant_audio():
    driver = Driver(session={"audio": PCMU})
    driver.send("response.create")
    driver.settle()
    error = error_of(driver.update(audio={"output": {"voice": "cedar"}}))
    assert error["code"] == "cannot_update_voice"
    assert kinds(driver.update(audio={"output": {"voice": "marin"}})) == ["session.updated"]


def test_reasoning_needs_a_reasoning_model():
    assert error_of(Driver(model="gpt-realtime-2025-08-28").update(reasoning={"effort": "low"}))
    assert updated(Driver().update(reasoning={"effort": "low"}))["reasoning"] == {"effort": "low"}


@pytest.mark.parametrize(
    ("event", "param"),
    [
        ({"type": "nonsense"}, "type"),
        ({}, "type"),
        ({"type": "input_audio_buffer.append"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "A"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "AAA=", "x": 1}, "x"),
        ({"type": "conversation.item.truncate", "item_id": "i", "content_index": 0}, "audio_end_ms"),
        ({"type": "conversation.item.create", "item": {"type": "message"}}, "item.role"),
        ({"type": "conversation.item.create", "item": {}}, "item.type"),
        (
            {
                "type": "conversation.item.create",
                "item": {"type": "function_call_output", "call_id": "c", "output": "{}"},
            },
            "item.call_id",
        ),
        (
            {
                "type": "conversation.item.create",
                "item": {"type": "message", "role": "assistant", "content": [{"type": "output_audio"}]},
            },
            "item.content[0].text",
        ),
        ({"type": "response.create", "response": {"temperature": 0.8}}, "response.temperature"),
    ],
)
def test_a_faulty_event_is_answered_and_the_session_stays_open(event, param):
    driver = Driver()
    error = error_of(driver._take(driver.core.receive(event, 0.0)))
    assert error["param"] == param
    assert not driver.core.closed
    assert driver.core.truth.client_errors


def test_an_append_over_15_mib_is_refused_and_none_of_it_is_heard():
    driver = Driver()
    mib = "AAAA" * (1024 * 1024 // 3)
    error = error_of(driver.send("input_audio_buffer.append", audio=mib * 16))
    assert (error["code"], error["param"]) == ("string_above_max_length", "audio")
    assert (driver.core.closed, driver.core.truth.appended_ms) == (False, 0)
    driver.say(20)
    assert driver.core.truth.appended_ms > 0


def test_a_transcription_session_transcribes_and_never_speaks():
    driver = Driver(session_type="transcription", model="")
    audio = {"input": {"format": {"type": "audio/pcmu"}, "transcription": {"model": "gpt-transcribe"}}}
    driver.send("session.update", session={"type": "transcription", "audio": audio})
    found = driver.turn() + driver.settle()
    assert "conversation.item.input_audio_transcription.completed" in kinds(found)
    assert "response.created" not in kinds(found)
