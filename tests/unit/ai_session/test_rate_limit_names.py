"""Which calls of a worker share a rate limit: those that a refusal of one says something about."""

import pytest

from libs.contracts.agent import AgentConfig
from libs.contracts.offer import Offer
from services.ai_session.__main__ import Backends
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS
from services.ai_session.voices.port import Sound
from tests.unit.ai_session.pipeline_support import ToneVoice, stages_at

NOWHERE = "http://127.0.0.1:1/v1"


class SomeVoices(ToneVoice):
    """The voice that the agent asks for by its provider."""

    def for_agent(self, agent, rate_hz):
        voice = ToneVoice()
        voice.sound = Sound(agent.speech.provider or "openai", "tts", "alloy", rate_hz)
        return voice


def limit_of(backend, model=None, provider=None):
    speech = {"provider": provider} if provider else {}
    agent = AgentConfig(name="a", backend=backend, model=model, speech=speech)
    offer = Offer(call="c", org="o", gw="g", epoch=1, caller="1", callee="2", agent=agent)
    endpoint = Endpoint(NOWHERE, "k", "gpt-realtime-2.1", load(BUILT_IN_MODELS))
    return Backends(endpoint, pipeline=stages_at(NOWHERE, SomeVoices()))(offer).limit


@pytest.mark.parametrize(
    ("backend", "default"), [("realtime", "gpt-realtime-2.1"), ("live", "gpt-live-1"), ("pipeline", "gpt-5.6-luna")]
)
def test_an_agent_that_names_the_default_model_shares_the_limit_of_those_that_do_not(backend, default):
    assert limit_of(backend) == limit_of(backend, default) != limit_of(backend, "another")


def test_the_same_name_at_another_api_is_another_model():
    assert len({limit_of(backend, "own") for backend in ("realtime", "live", "pipeline")}) == 3


def test_a_voice_at_its_limit_does_not_close_the_model_for_other_voices():
    assert limit_of("pipeline", provider="elevenlabs") != limit_of("pipeline", provider="openai")
