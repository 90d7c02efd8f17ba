"""Every field of the agent's document in `session.update`, and what a server may refuse of it."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import pytest

from libs.contracts.agent import AgentConfig, Limits, McpServer, Transcription, TurnTaking
from libs.contracts.offer import CallState, Offer
from libs.contracts.tool import ToolDescription
from services.ai_session.backends import realtime_config
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.backends.realtime_plan import plan_realtime
from services.ai_session.backends.realtime_refusals import without
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS
from services.rehearsal.session_config import SessionConfig
from services.rehearsal.validation import validate_client_event

MODELS = load(BUILT_IN_MODELS)
PRICE = ToolDescription(name="price", description="d", parameters={"type": "object"})
CRM = McpServer(label="crm", url="https://crm.example/mcp", token="crm", allowed_tools=("find",), description="Kunden")
RICH = AgentConfig(
    name="a",
    voice="cedar",
    speed=1.1,
    languages=("de", "en"),
    turn_taking=TurnTaking(
        threshold=0.6, prefix_padding_ms=200, silence_ms=700, idle_timeout_ms=6000, noise_reduction_strength=0.5
    ),
    transcription=Transcription(prompt="Bestellungen", keywords=("Bögen",)),
    reasoning_effort="high",
    max_output_tokens=1000,
    limits=Limits(truncation_ratio=0.6),
    mcp=(CRM,),
)


def an_offer(agent):
    return Offer(call="01J", org="default", gw="gw", epoch=1, caller="+49301", callee="+49302", agent=agent)


def session(agent, model="gpt-realtime-2.1", **state):
    tokens = {"crm": "secret"}
    return realtime_config.session(agent, model, MODELS, CallState(**state), "Hi", [PRICE], mcp_tokens=tokens)


def test_every_field_reaches_the_session():
    assert session(RICH, codec="PCMA") == {
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": "Hi",
        "audio": {
            "input": {
                "format": {"type": "audio/pcma"},
                "noise_reduction": {"type": "near_field", "strength": 0.5},
                "transcription": {
                    "model": "gpt-transcribe",
                    "languages": ["de", "en"],
                    "prompt": "Bestellungen",
                    "keywords": ["Bögen"],
                },
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.6,
                    "prefix_padding_ms": 200,
                    "silence_duration_ms": 700,
                    "idle_timeout_ms": 6000,
                    "create_response": True,
                    "interrupt_response": True,
                },
            },
            "output": {"format": {"type": "audio/pcma"}, "voice": "cedar", "speed": 1.1},
        },
        "tools": [
            {"type": "function", "name": "price", "description": "d", "parameters": {"type": "object"}},
            {
                "type": "mcp",
                "server_label": "crm",
                "server_url": "https://crm.example/mcp",
                "require_approval": "never",
                "authorization": "secret",
                "allowed_tools": ["find"],
                "server_description": "Kunden",
            },
        ],
        "tool_choice": "auto",
        "max_output_tokens": 1000,
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.6},
        "reasoning": {"effort": "high"},
        "parallel_tool_calls": True,
    }


@pytest.mark.parametrize(
    "agent",
    [
        AgentConfig(name="a"),
        RICH,
        AgentConfig(name="a", turn_taking=TurnTaking(mode="semantic_vad", eagerness="low", noise_reduction=None)),
        AgentConfig(name="a", reasoning_effort="none", speed=0.25),
    ],
)
@pytest.mark.parametrize("model", ["gpt-realtime-2.1", "gpt-realtime-1.5"])
def test_the_packages_models_and_the_server_accept_the_session(agent, model):
    update = session(agent, model)
    validate_client_event({"type": "session.update", "session": update})
    config = SessionConfig(session_id="s", model=model, expires_at=0)
    config.update(update, has_assistant_audio=False, responding=False)


@pytest.mark.parametrize(
    ("turns", "flags"),
    [
        (TurnTaking(), (True, True)),
        (TurnTaking(interruptible=False), (True, False)),
        (TurnTaking(barge_in="local"), (False, False)),
        (TurnTaking(mode="semantic_vad", barge_in="local"), (False, False)),
    ],
)
def test_who_answers_and_who_interrupts(turns, flags):
    agent = AgentConfig(name="a", turn_taking=turns)
    detection = session(agent)["audio"]["input"]["turn_detection"]
    assert (detection["create_response"], detection["interrupt_response"]) == flags
    plan = plan_realtime(Endpoint("ws://x", "k", "m", MODELS), an_offer(agent=agent))
    assert (plan.capabilities.answers, plan.capabilities.server_interrupts) == flags


def test_reasoning_goes_only_to_models_that_reason_and_is_least_when_unwanted():
    agent = AgentConfig(name="a", reasoning_effort="none")
    assert session(agent)["reasoning"] == {"effort": "minimal"}
    assert session(AgentConfig(name="a"))["reasoning"] == {"effort": "low"}
    assert "reasoning" not in session(agent, "gpt-realtime-1.5")
    assert "parallel_tool_calls" not in session(agent, "gpt-realtime-1.5")


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("gpt-transcribe", {"language", "prompt", "keywords"}),
        ("gpt-live-transcribe", {"language", "prompt", "keywords"}),
        ("gpt-realtime-whisper", {"language"}),
        ("whisper-1", {"language", "prompt"}),
    ],
)
def test_a_transcription_model_gets_only_what_it_takes(model, fields):
    chosen = Transcription(model=model, prompt="p", keywords=("k",))
    sent = realtime_config.transcription(AgentConfig(name="a", transcription=chosen), MODELS)
    assert set(sent) == {"model", *fields}


def test_an_mcp_token_that_the_worker_lacks_refuses_the_agent_with_a_sentence():
    endpoint = Endpoint("ws://x", "k", "m", MODELS, mcp_tokens={"other": "t"})
    with pytest.raises(UnsupportedAgentError, match="'crm' needs the token 'crm', which MCP_TOKENS does not have"):
        plan_realtime(endpoint, an_offer(agent=RICH))
    server = McpServer(label="crm", url="https://crm.example/mcp", token="acme.crm")
    for org, is_told in (("acme", True), ("other", False)):
        theirs = AgentConfig(name="a", org=org, backend="realtime", mcp=(server,))
        endpoint = Endpoint("ws://x", "k", "m", MODELS, mcp_tokens={"acme.crm": "t"})
        with nullcontext() if is_told else pytest.raises(UnsupportedAgentError):
            plan_realtime(endpoint, an_offer(agent=theirs))
    assert "secret" not in repr(Endpoint("ws://x", "k", "m", MODELS, mcp_tokens={"crm": "secret"}))


@pytest.mark.parametrize(
    ("param", "dropped"),
    [
        ("session.audio.input.transcription.prompt", "audio.input.transcription.prompt"),
        ("session.audio.input.transcription.keywords[0]", "audio.input.transcription.keywords"),
        ("session.audio.input.transcription.languages", "audio.input.transcription.languages"),
        ("session.audio.input.transcription.model", "audio.input.transcription"),
        ("session.audio.input.noise_reduction.strength", "audio.input.noise_reduction.strength"),
        ("session.audio.input.noise_reduction", "audio.input.noise_reduction"),
        ("session.audio.input.turn_detection.idle_timeout_ms", "audio.input.turn_detection.idle_timeout_ms"),
        ("session.audio.input.turn_detection.threshold", "audio.input.turn_detection.threshold"),
        ("session.audio.input.turn_detection.prefix_padding_ms", "audio.input.turn_detection.prefix_padding_ms"),
        ("session.audio.input.turn_detection.silence_duration_ms", "audio.input.turn_detection.silence_duration_ms"),
        ("session.audio.output.speed", "audio.output.speed"),
        ("session.audio.output.voice", "audio.output.voice"),
        ("session.reasoning.effort", "reasoning"),
        ("session.parallel_tool_calls", "parallel_tool_calls"),
        ("session.truncation.retention_ratio", "truncation"),
        ("session.max_output_tokens", "max_output_tokens"),
        ("session.tool_choice", "tool_choice"),
        ("session.tools[0].parameters", "tools.price"),
        ("session.tools[1].server_url", "tools.crm"),
        ("session.instructions", None),
        ("session.audio.input.format", None),
        ("session.audio.input.turn_detection", None),
        ("session.tools", None),
        ("", None),
    ],
)
def test_the_call_does_without_what_a_server_refuses(param, dropped):
    update = session(RICH)
    before = deepcopy(update)
    assert without(update, param) == dropped
    assert (update == before) == (dropped is None)
    if dropped is not None and not dropped.startswith(("tools", "audio.input.transcription.", "audio.input.noise")):
        assert without(update, param) is None  # refused once more: nothing is left to drop


def test_what_a_server_refuses_without_a_param_is_read_from_its_sentence():
    update = session(RICH)
    assert without(update, "", "Unknown parameter: 'session.truncation'.") == "truncation"
    assert without(update, "", "Something is wrong.") is None


def test_a_server_without_semantic_detection_gets_the_other_one():
    update = session(AgentConfig(name="a", turn_taking=TurnTaking(mode="semantic_vad", barge_in="local")))
    assert without(update, "session.audio.input.turn_detection.type") == "audio.input.turn_detection"
    assert update["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "create_response": False,
        "interrupt_response": False,
    }


def test_a_transcription_that_wants_no_turn_detection_is_given_up_and_the_turns_stay():
    update = session(AgentConfig(name="a", transcription=Transcription(model="gpt-realtime-whisper")))
    assert without(update, "session.audio.input.turn_detection") == "audio.input.transcription"
    assert update["audio"]["input"]["turn_detection"]["type"] == "server_vad"
