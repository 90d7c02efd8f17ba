"""What all pipeline calls of a worker share: one connection pool per endpoint, prices, voices, measured times."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import openai
import openai.resources.audio  # else the package loads them with the first call, while all others wait
import openai.resources.chat
from pydantic import SecretStr

from libs.contracts.agent import AgentConfig
from services.ai_session.backends.chat import ChatModel
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.backends.port import BackendError
from services.ai_session.backends.stage_errors import Stage, StageError, StageFault, stage_error
from services.ai_session.backends.transcriber import Transcriber
from services.ai_session.costs import Models
from services.ai_session.http_client import openai_client
from services.ai_session.settings import Settings, is_openai
from services.ai_session.voices.port import Voice

CHECK_WITHIN_S = 2.0
CHECKED_FOR_S = 60.0  # an endpoint that answered is not asked again for so long
_NO_LIST = (400, 404, 405, 422, 501)
KEPT_TIMES = 1000


class Voices(Protocol):
    """Who has the voices."""

    def for_agent(self, agent: AgentConfig, rate_hz: int) -> Voice:
        """The voice of an agent.

        Raises:
            UnsupportedAgentError: there is none here.
        """
        ...


class StageTimes:
    """How long the stages take, in seconds: the last ones by name, and to whoever `observe`s."""

    def __init__(self) -> None:
        self.recent: dict[str, deque[float]] = {}
        self.observe: Callable[[float, str], None] = lambda _seconds, _stage: None

    def note(self, stage: str, seconds: float) -> None:
        """A stage took this long."""
        self.recent.setdefault(stage, deque(maxlen=KEPT_TIMES)).append(seconds)
        self.observe(seconds, stage)


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """Where a stage is, and its key."""

    base_url: str
    api_key: str

    @property
    def lacks_key(self) -> bool:
        """Only the original insists on one."""
        return not self.api_key and is_openai(self.base_url)


@dataclass(slots=True)
class Stages:
    """One per worker. `close` gives the connections back."""

    transcription: HttpEndpoint
    chat: HttpEndpoint
    chat_model_name: str
    models: Models
    voices: Voices
    counters: Counter[str] = field(default_factory=Counter)
    times: StageTimes = field(default_factory=StageTimes)
    _clients: dict[HttpEndpoint, openai.AsyncOpenAI] = field(default_factory=dict)
    _checked_at: dict[HttpEndpoint, float] = field(default_factory=dict)
    _transcriber: Transcriber | None = None
    _chat_model: ChatModel | None = None

    @property
    def transcriber(self) -> Transcriber:
        """Speech to text."""
        if self._transcriber is None:
            self._transcriber = Transcriber(self._client(self.transcription), self.counters)
        return self._transcriber

    @property
    def chat_model(self) -> ChatModel:
        """Text to text."""
        if self._chat_model is None:
            self._chat_model = ChatModel(self._client(self.chat), self.counters)
        return self._chat_model

    def require_keys(self) -> None:
        """Raise UnsupportedAgentError when this worker has no key for an endpoint that insists on one."""
        for endpoint, name in ((self.transcription, "TRANSCRIPTION_API_KEY"), (self.chat, "CHAT_API_KEY")):
            if endpoint.lacks_key:
                raise UnsupportedAgentError(f"backend 'pipeline' needs {name}, or OPENAI_API_KEY for OPENAI_BASE_URL")

    async def check(self, now: float) -> None:
        """Whether the endpoints can be had and take their keys, at most once in `CHECKED_FOR_S`.

        Their list of models is asked for, which costs nothing and leaves an open connection; a server without one is
        believed, and so is one that is busy. The voice's endpoint is not asked: its first request is the check.

        Raises:
            BackendError: an endpoint was not reached, or refused the key.
        """
        stages: tuple[tuple[Stage, HttpEndpoint], ...] = (("chat", self.chat), ("transcription", self.transcription))
        due = {
            endpoint: stage
            for stage, endpoint in stages
            if now - self._checked_at.get(endpoint, float("-inf")) > CHECKED_FOR_S
        }
        results = await asyncio.gather(*(self._problem(stage, endpoint) for endpoint, stage in due.items()))
        for endpoint, problem in zip(due, results, strict=True):
            if problem is not None:
                raise BackendError("refused" if problem.final else "unreachable", str(problem), retry=not problem.final)
            self._checked_at[endpoint] = now

    async def close(self) -> None:
        """Give all connections back."""
        clients, self._clients = list(self._clients.values()), {}
        self._transcriber = self._chat_model = None
        for client in clients:
            await client.close()

    async def _problem(self, stage: Stage, endpoint: HttpEndpoint) -> StageError | None:
        try:
            async with asyncio.timeout(CHECK_WITHIN_S):
                await self._client(endpoint).get("/models", cast_to=object)
        except openai.APIStatusError as error:
            failure = stage_error(stage, error)
            if error.status_code in _NO_LIST or (error.status_code == 429 and not failure.final):
                return None
            return failure
        except StageFault as error:
            return stage_error(stage, error)
        except ValueError:  # something answers, if not with JSON
            return None
        return None

    def _client(self, endpoint: HttpEndpoint) -> openai.AsyncOpenAI:
        client = self._clients.get(endpoint)
        if client is None:
            client = self._clients[endpoint] = openai_client(endpoint.base_url, endpoint.api_key)
        return client


def stages_of(settings: Settings, models: Models, voices: Voices) -> Stages:
    """The stages that the settings name: each at an endpoint of its own, or else at OPENAI_BASE_URL."""
    return Stages(
        transcription=_endpoint(settings, settings.transcription_base_url, settings.transcription_api_key),
        chat=_endpoint(settings, settings.chat_base_url, settings.chat_api_key),
        chat_model_name=settings.chat_model,
        models=models,
        voices=voices,
    )


def _endpoint(settings: Settings, base_url: str | None, key: SecretStr | None) -> HttpEndpoint:
    return HttpEndpoint(base_url or settings.openai_base_url, settings.stage_key(base_url, key))
