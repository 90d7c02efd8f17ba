"""An agent's document: what fits its backend, in which unit, and what is filled in."""

import pytest
from pydantic import ValidationError

from libs.contracts.agent import AgentConfig
from libs.contracts.originate import AgentChanges


def test_each_backend_has_its_own_way_to_detect_turns():
    realtime, pipeline = AgentConfig(name="a"), AgentConfig(name="a", backend="pipeline")
    assert (realtime.turns.mode, realtime.turns.threshold, realtime.turns.silence_ms) == ("server_vad", 0.5, 500)
    assert (pipeline.turns.mode, pipeline.turns.threshold, pipeline.turns.silence_ms) == ("energy", -40.0, 1000)
    assert (realtime.turns.barge_in, pipeline.turns.barge_in) == ("server", "local")
    assert AgentConfig(name="a", backend="live").turns.mode is None


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"backend": "pipeline", "turn_taking": {"threshold": 0.5}}, "0.5 is not a level in dBFS"),
        ({"backend": "pipeline", "turn_taking": {"mode": "neural", "threshold": -40}}, "neural takes a probability"),
        ({"turn_taking": {"threshold": -40}}, "server_vad takes a probability from 0 to 1"),
        ({"turn_taking": {"mode": "energy"}}, "use server_vad or semantic_vad"),
        ({"backend": "live", "turn_taking": {"mode": "server_vad"}}, "the model owns its turns"),
        ({"backend": "pipeline", "mcp": [{"label": "crm", "url": "https://mcp.example.com"}]}, "named in tools"),
        ({"answering_machine": {"then": "leave_message"}}, "needs a message"),
    ],
)
def test_what_does_not_fit_is_one_sentence(document, sentence):
    with pytest.raises(ValidationError, match=sentence):
        AgentConfig.model_validate({"name": "a"} | document)


def test_a_recording_is_announced_before_the_greeting():
    agent = AgentConfig(name="a", greeting="Guten Tag.", recording="announce", recording_notice="Wir nehmen auf.")
    assert agent.opening == "Wir nehmen auf. Guten Tag."
    assert agent.model_copy(update={"greeting": None}).opening == "Wir nehmen auf."
    assert agent.model_copy(update={"recording": "on"}).opening == "Guten Tag."
    assert AgentConfig(name="a").opening is None


def test_another_backend_for_one_call_brings_its_own_model_and_turn_detection():
    agent = AgentConfig(name="a", model="gpt-realtime-2.1", turn_taking={"mode": "server_vad", "threshold": 0.5})
    changed = AgentChanges(backend="pipeline", threshold=-35).applied_to(agent)
    assert (changed.model, changed.turns.mode, changed.turns.threshold) == (None, "energy", -35)
    with pytest.raises(ValidationError, match="dBFS"):
        AgentChanges(backend="pipeline", threshold=0.4).applied_to(agent)


@pytest.mark.parametrize(
    "fields",
    [
        {"backend": "realtime", "turn_taking": {"mode": "semantic_vad", "idle_timeout_ms": 6000}},
        {"backend": "realtime", "turn_taking": {"barge_in": "local", "idle_timeout_ms": 6000}},
        {"backend": "pipeline", "turn_taking": {"idle_timeout_ms": 6000}},
        {"backend": "live", "turn_taking": {"idle_timeout_ms": 6000}},
    ],
)
def test_an_idle_timeout_that_nobody_would_keep_is_refused(fields):
    with pytest.raises(ValidationError, match=r"idle_timeout_ms does nothing with .*: use idle\.after_s"):
        AgentConfig(name="a", **fields)
    assert AgentConfig(name="a", turn_taking={"idle_timeout_ms": 6000}).turns.idle_timeout_ms == 6000
    patient = AgentConfig(name="a", turn_taking={"idle_timeout_ms": 6000})
    assert AgentChanges(backend="live").applied_to(patient).turns.idle_timeout_ms is None
