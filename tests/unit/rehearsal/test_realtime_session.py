import base64
import json

from services.rehearsal.scenario import Scenario

from .driver import PCMU, Driver, error_of, kinds, of, one, squeezed


def test_session_created_comes_first_and_carries_id_and_expiry():
    driver = Driver()
    created = driver.frames[0]
    assert created["type"] == "session.created"
    assert created["session"]["id"] == "sess_1"
    assert created["session"]["expires_at"] == 1
    assert created["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}


def test_every_event_has_an_id_of_its_own():
    driver = Driver(session={"audio": PCMU})
    driver.turn()
    driver.settle()
    ids = [frame["event_id"] for frame in driver.frames]
    assert len(ids) == len(set(ids))


def test_a_vad_turn_has_the_order_of_the_reference():
    driver = Driver(session={"audio": PCMU})
    found = driver.turn() + driver.settle()
    assert squeezed(found) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "rate_limits.updated",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]


def test_the_deltas_add_up_to_the_audio_and_the_transcript():
    driver = Driver(session={"audio": PCMU})
    found = driver.turn() + driver.settle()
    audio = b"".join(base64.b64decode(f["delta"]) for f in of(found, "response.output_audio.delta"))
    assert len(audio) == 4 * 800  # four words
    text = "".join(f["delta"] for f in of(found, "response.output_audio_transcript.delta"))
    assert text == one(found, "response.output_audio_transcript.done")["transcript"] == "Aha, das ist schön."


def test_audio_deltas_come_faster_than_real_time_and_in_uneven_lengths():
    driver = Driver(Scenario(name="s", greeting="ein " * 50), session={"audio": PCMU})
    driver.send("response.create")
    lengths = []
    while not of(driver.frames, "response.done"):
        found = driver.until(driver.core.deadline())
        lengths += [len(base64.b64decode(f["delta"])) for f in of(found, "response.output_audio.delta")]
    assert sum(lengths) == 50 * 800
    assert any(length % 2 for length in lengths)
    assert any(length % 160 for length in lengths)
    assert 0.1 < driver.now < 0.1 + 5.0 / 8 + 0.05


def test_pcm_output_has_24_khz_and_whole_samples():
    driver = Driver(session={})
    found = driver.send("response.create") + driver.settle()
    deltas = [base64.b64decode(f["delta"]) for f in of(found, "response.output_audio.delta")]
    assert all(len(delta) % 2 == 0 for delta in deltas)
    assert sum(map(len, deltas)) == 6 * 100 * 48


def test_the_wall_clock_plays_no_part_in_turn_detection():
    driver = Driver(session={"audio": PCMU})
    driver.say(400)
    driver.until(30.0)
    assert "input_audio_buffer.speech_stopped" not in driver.types()
    driver.say(480, loud=False)
    assert "input_audio_buffer.speech_stopped" not in driver.types()
    driver.say(60, loud=False)
    assert "input_audio_buffer.speech_stopped" in driver.types()


def test_positions_are_measured_in_appended_audio():
    driver = Driver(session={"audio": PCMU})
    driver.say(1000, loud=False)
    found = driver.turn(400)
    assert one(found, "input_audio_buffer.speech_started")["audio_start_ms"] == 700
    assert one(found, "input_audio_buffer.speech_stopped")["audio_end_ms"] in range(1890, 1920)


def test_barge_in_cancels_the_running_response():
    driver = Driver(Scenario(name="s", greeting="ein " * 100), session={"audio": PCMU})
    driver.send("response.create")
    driver.until(0.5)
    found = driver.say(200)
    assert squeezed(found) == [
        "input_audio_buffer.speech_started",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    response = one(found, "response.done")["response"]
    assert response["status"] == "cancelled"
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_token_details"]["audio_tokens"] > 0


def test_interrupt_response_false_lets_the_response_go_on_and_refuses_a_second():
    detection = {"type": "server_vad", "interrupt_response": False}
    audio = {"input": PCMU["input"] | {"turn_detection": detection}, "output": PCMU["output"]}
    driver = Driver(Scenario(name="s", greeting="ein " * 100), session={"audio": audio})
    driver.send("response.create")
    driver.until(0.2)
    found = driver.turn()
    assert error_of(found)["code"] == "conversation_already_has_active_response"
    assert one(driver.settle(), "response.done")["response"]["status"] == "completed"


def test_create_response_false_only_reports_the_turn():
    detection = {"type": "server_vad", "create_response": False, "interrupt_response": False}
    audio = {"input": PCMU["input"] | {"turn_detection": detection}, "output": PCMU["output"]}
    driver = Driver(session={"audio": audio})
    found = driver.turn() + driver.settle()
    assert "input_audio_buffer.committed" in kinds(found)
    assert "response.created" not in kinds(found)


def test_without_turn_detection_the_client_commits():
    audio = {"input": PCMU["input"] | {"turn_detection": None}, "output": PCMU["output"]}
    driver = Driver(session={"audio": audio})
    assert driver.turn() == []
    found = driver.send("input_audio_buffer.commit")
    assert kinds(found) == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert "response.created" in kinds(driver.send("response.create"))


def test_a_short_commit_is_refused():
    driver = Driver(session={"audio": {"input": PCMU["input"] | {"turn_detection": None}}})
    driver.say(60)
    error = error_of(driver.send("input_audio_buffer.commit", event_id="mine"))
    assert error["code"] == "input_audio_buffer_commit_empty"
    assert "buffer too small. Expected at least 100ms of audio" in error["message"]
    assert error["event_id"] == "mine"


def test_one_response_at_a_time():
    driver = Driver(session={"audio": PCMU})
    first = one(driver.send("response.create"), "response.created")["response"]["id"]
    error = error_of(driver.send("response.create"))
    assert error["code"] == "conversation_already_has_active_response"
    assert first in error["message"]


def test_an_out_of_band_response_runs_beside_and_leaves_no_item():
    driver = Driver(session={"audio": PCMU})
    driver.send("response.create")
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Lies den Satz."}]}
    response = {"conversation": "none", "metadata": {"topic": "tts"}, "input": [item]}
    assert "response.created" in kinds(driver.send("response.create", response=response))
    done = [f["response"] for f in of(driver.settle(), "response.done")]
    aside = next(r for r in done if r["metadata"] == {"topic": "tts"})
    assert aside["conversation_id"] is None
    assert aside["output"][0]["content"][0]["transcript"] == "Lies den Satz."
    assert len(driver.core.truth.conversation.items) == 1


def test_cancel_ends_the_response_and_a_second_cancel_is_an_error():
    driver = Driver(Scenario(name="s", greeting="ein " * 100), session={"audio": PCMU})
    driver.send("response.create")
    driver.until(0.3)
    response = one(driver.send("response.cancel"), "response.done")["response"]
    assert response["status_details"]["reason"] == "client_cancelled"
    assert error_of(driver.send("response.cancel"))["code"] == "response_cancel_not_active"
    assert driver.core.deadline() is None


def _spoken(driver):
    driver.send("response.create")
    driver.settle()
    return driver.core.truth.conversation.items[0]


def test_truncation_sets_what_was_heard_and_forgets_the_transcript():
    driver = Driver(session={"audio": PCMU})
    item = _spoken(driver)
    cut = {"item_id": item.id, "content_index": 0, "audio_end_ms": 250}
    assert kinds(driver.send("conversation.item.truncate", **cut)) == ["conversation.item.truncated"]
    assert item.heard_ms == 250
    assert "transcript" not in item.body["content"][0]


def test_truncating_beyond_the_audio_is_refused_in_the_servers_words():
    driver = Driver(session={"audio": PCMU})
    item = _spoken(driver)
    cut = {"item_id": item.id, "content_index": 0, "audio_end_ms": 601}
    error = error_of(driver.send("conversation.item.truncate", **cut))
    assert error["message"] == "Audio content of 600ms is already shorter than 601ms"


def test_only_model_audio_can_be_truncated():
    driver = Driver(session={"audio": PCMU})
    driver.turn()
    item = driver.core.truth.conversation.items[0]
    cut = {"item_id": item.id, "content_index": 0, "audio_end_ms": 10}
    error = error_of(driver.send("conversation.item.truncate", **cut))
    assert error["message"] == "Only model output audio messages can be truncated"
    assert error["code"] == "unsupported_content_type"


def test_a_deleted_item_is_gone_and_counts_as_unheard():
    driver = Driver(session={"audio": PCMU})
    item = _spoken(driver)
    assert kinds(driver.send("conversation.item.delete", item_id=item.id)) == ["conversation.item.deleted"]
    error = error_of(driver.send("conversation.item.delete", item_id=item.id))
    assert error["code"] == "item_delete_invalid_item_id"
    assert driver.core.truth.as_json()["items"][0]["heard_ms"] == 0


def test_the_transcription_may_come_after_response_done():
    audio = {
        "input": PCMU["input"] | {"transcription": {"model": "gpt-transcribe", "language": "de"}},
        "output": PCMU["output"],
    }
    scenario = Scenario(name="s", greeting="Hallo", turns=[{"caller": "zehn T-Stücke bitte ja", "answer": "Gut."}])
    driver = Driver(scenario, session={"audio": audio}, transcription_delay_ms=5000)
    driver.turn()
    found = driver.settle()
    order = kinds(found)
    completed = "conversation.item.input_audio_transcription.completed"
    assert order.index("response.done") < order.index(completed)
    deltas = of(found, "conversation.item.input_audio_transcription.delta")
    assert "".join(f["delta"] for f in deltas) == one(found, completed)["transcript"] == "zehn T-Stücke bitte ja"


def test_idle_timeout_counts_appended_audio_after_the_response_was_played():
    detection = {"type": "server_vad", "idle_timeout_ms": 5000}
    audio = {"input": PCMU["input"] | {"turn_detection": detection}, "output": PCMU["output"]}
    driver = Driver(session={"audio": audio})
    driver.send("response.create")
    driver.settle()
    assert driver.say(5580, loud=False) == []
    found = driver.say(40, loud=False)
    assert one(found, "input_audio_buffer.timeout_triggered")["audio_start_ms"] == 600
    found += driver.settle()
    assert "Sind Sie noch da?" in json.dumps(one(found, "response.done"))
    assert driver.core.truth.conversation.turn == 0


def test_usage_counts_audio_by_time_and_caches_what_was_seen():
    driver = Driver(session={"audio": PCMU})
    driver.turn()
    first = one(driver.settle(), "response.done")["response"]["usage"]
    assert first["output_token_details"]["audio_tokens"] == 400 / 50
    assert first["input_token_details"]["cached_tokens"] == 0
    driver.turn()
    second = one(driver.settle(), "response.done")["response"]["usage"]
    cached = second["input_token_details"]["cached_tokens"]
    assert cached == first["input_tokens"]
    assert second["total_tokens"] == second["input_tokens"] + second["output_tokens"]


def test_max_output_tokens_cuts_the_audio_short():
    driver = Driver(Scenario(name="s", greeting="ein " * 50), session={"audio": PCMU, "max_output_tokens": 20})
    found = driver.send("response.create") + driver.settle()
    response = one(found, "response.done")["response"]
    assert response["status"] == "incomplete"
    assert response["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert sum(len(base64.b64decode(f["delta"])) for f in of(found, "response.output_audio.delta")) == 8000


def test_text_modality_sends_text_deltas_only():
    driver = Driver(session={"output_modalities": ["text"]})
    found = driver.send("response.create") + driver.settle()
    assert one(found, "response.output_text.done")["text"] == "Guten Tag, was kann ich tun?"
    assert "response.output_audio.delta" not in kinds(found)
