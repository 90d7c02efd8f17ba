"""What `callbus doctor` says of the models that agents use: their ends, and the keys that they need."""

from datetime import date

import pytest

from cli.agent_models import endings, missing_keys
from libs.contracts.agent import AgentConfig, Speech, Transcription
from services.ai_session.costs import load
from services.ai_session.model_watch import Defaults
from services.ai_session.settings import BUILT_IN_MODELS, Settings

TABLE = load(BUILT_IN_MODELS)
TODAY = date(2026, 12, 20)
NAMES = ("OPENAI", "CHAT", "TRANSCRIPTION", "SPEECH", "ELEVENLABS")


@pytest.fixture(autouse=True)
def _no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        for end in ("_API_KEY", "_BASE_URL", "_MODEL", "_VOICE_ID", "_PROVIDER"):
            monkeypatch.delenv(name + end, raising=False)


def worker(**fields: object) -> Settings:
    return Settings(_env_file=None, **fields)  # type: ignore[arg-type]


def told(*agents: AgentConfig) -> list[tuple[str, str, str]]:
    return [tuple(each) for each in endings(agents, Defaults.of(worker(), TABLE), TABLE, TODAY)]


def test_agents_whose_models_end_are_named_with_what_to_use() -> None:
    found = told(
        AgentConfig(name="anna", model="gpt-realtime"),
        AgentConfig(name="berta", model="gpt-realtime"),
        AgentConfig(name="carl", backend="pipeline", model="gpt-5"),
        AgentConfig(name="dora", transcription=Transcription(model="whisper-1")),  # in 68 days
    )
    assert found == [
        (
            "warn",
            "model gpt-4o-mini-tts of agent carl ends on 2027-01-06, in 17 days",
            "let the agent speak with speech.provider realtime (gpt-realtime-2.1-mini), elevenlabs or local",
        ),
        ("fail", "model gpt-5 of agent carl was shut down on 2026-12-11", "use gpt-6.1-terra instead"),
        (
            "warn",
            "model gpt-realtime of agents anna, berta ends on 2027-01-20, in 31 days",
            "use gpt-realtime-2.1 instead",
        ),
    ]


PIPELINE = AgentConfig(name="p", backend="pipeline")
ELEVEN = AgentConfig(name="e", backend="pipeline", speech=Speech(provider="elevenlabs"))


@pytest.mark.parametrize(
    ("agent", "fields", "names"),
    [
        (AgentConfig(name="l", backend="live"), {}, ["OPENAI_API_KEY"]),
        (AgentConfig(name="l", backend="live"), {"openai_api_key": "k"}, []),
        (AgentConfig(name="r"), {"openai_base_url": "http://127.0.0.1:8000/v1"}, []),
        (
            PIPELINE,
            {},
            [f"{stage}_API_KEY or OPENAI_API_KEY" for stage in ("CHAT", "SPEECH", "TRANSCRIPTION")],
        ),
        (PIPELINE, {"openai_api_key": "k"}, []),
        (
            PIPELINE,
            {"chat_base_url": "http://127.0.0.1:1/v1", "transcription_api_key": "k", "speech_provider": "local"},
            [],
        ),
        (
            PIPELINE,  # the key of one server is not for another, even of the same owner
            {"openai_api_key": "k", "chat_base_url": "https://eu.api.openai.com/v1"},
            ["CHAT_API_KEY or OPENAI_API_KEY"],
        ),
        (ELEVEN, {"openai_api_key": "k"}, ["ELEVENLABS_API_KEY", "ELEVENLABS_VOICE_ID"]),
        (ELEVEN, {"openai_api_key": "k", "elevenlabs_api_key": "k", "elevenlabs_voice_id": "v"}, []),
        (AgentConfig(name="s", backend="scripted"), {}, []),
    ],
)
def test_agents_that_nobody_could_serve_for_want_of_a_key_are_named(
    agent: AgentConfig, fields: dict[str, object], names: list[str]
) -> None:
    found = missing_keys([agent], worker(**fields))
    assert [each.text for each in found] == [f"there is no {name} for agent {agent.name}" for name in names]
    assert all(each.state == "fail" and each.remedy for each in found)
