"""What the worker's calls need rendered ahead, and when."""

from __future__ import annotations

from libs.contracts.agent import AgentConfig
from libs.runtime.log import get_logger
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.voices.factory import Voices
from services.ai_session.voices.renderings import Renderings, texts_of

log = get_logger()


class SpeechAhead:
    """Has the fixed texts of agents rendered at their first call. What fails here costs a filler, never a call."""

    def __init__(self, voices: Voices) -> None:
        self._voices = voices
        self._warned: set[str] = set()

    def of(self, agent: AgentConfig, rate_hz: int) -> Renderings | None:
        """Where the agent's ready texts are; None when it has none, or nobody here can speak them."""
        if not texts_ahead(agent):
            return None
        try:
            return self._voices.renderings_for(agent, rate_hz)
        except UnsupportedAgentError as error:
            if agent.key not in self._warned:
                self._warned.add(agent.key)
                log.warning("an agent's fillers will not be heard", agent=agent.name, why=str(error))
            return None

    async def prepare(self, renderings: Renderings, agent: AgentConfig) -> None:
        """Render what is not ready yet, in the background."""
        try:
            await renderings.prepare(texts_ahead(agent))
        except Exception:  # the top of a task beside all calls of the worker
            log.exception("texts were not rendered ahead", agent=agent.name)


def texts_ahead(agent: AgentConfig) -> tuple[str, ...]:
    """What the worker says by itself, and with the pipeline all that the agent says word for word.

    A Realtime or Live model speaks its greeting itself. A Live agent, whose model talks on while it waits, and a
    scripted one have fillers only where they name a voice for them.
    """
    match agent.backend:
        case "pipeline":
            return texts_of(agent)
        case "realtime":
            return agent.fillers.texts
        case "scripted" | "live" if agent.speech.provider is not None:
            return agent.fillers.texts
        case _:
            return ()
