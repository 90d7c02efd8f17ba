"""The agent's settings that turns depend on."""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.contracts.agent import AgentConfig, Fillers, Idle
from services.ai_session.actions import Why
from services.ai_session.backends.port import Capabilities
from services.ai_session.history import GoOn
from services.ai_session.interruption import BackChannels, Interruption
from services.ai_session.phrases import Phrases, Verbatim, Wish


@dataclass(frozen=True, slots=True)
class TurnRules:
    """What the turn machine needs to know of an agent."""

    phrases: Phrases
    interruptible: bool = True
    max_duration_s: float = 1800.0
    budget_usd: float | None = None
    local_barge_in: bool = False  # where the backend leaves interruptions and answers to us
    barge_in_min_ms: float = 300
    silence_ms: float = 500  # after speech, until the voice detection tells its end
    back_channels: tuple[str, ...] = ()
    idle: Idle = field(default_factory=Idle)
    fillers: Fillers = field(default_factory=Fillers)
    languages: tuple[str, ...] = ("de",)
    message: str | None = None  # for an answering machine; None: hang up

    @classmethod
    def of(cls, agent: AgentConfig) -> TurnRules:
        """From an agent's document."""
        turns = agent.turns
        return cls(
            phrases=Phrases.of(agent.opening, agent.goodbye),
            interruptible=turns.interruptible,
            max_duration_s=agent.limits.max_duration_s,
            budget_usd=agent.budget.per_call_usd,
            local_barge_in=turns.barge_in == "local",
            barge_in_min_ms=turns.barge_in_min_ms,
            silence_ms=turns.silence_ms or 0,
            back_channels=turns.back_channels,
            idle=agent.idle,
            fillers=agent.fillers,
            languages=agent.languages,
            message=agent.answering_machine.message if agent.answering_machine.then == "leave_message" else None,
        )

    def first_words(self, go_on: GoOn) -> Wish:
        """What a session says of its own to begin with, if anything."""
        match go_on:
            case GoOn.GREET:
                return self.phrases.greeting
            case GoOn.CONTINUE:
                return self.phrases.carry_on
            case GoOn.ASK_TO_REPEAT:
                return self.phrases.ask_to_repeat
            case GoOn.COME_BACK:
                return self.phrases.come_back
            case GoOn.LISTEN | GoOn.ANSWER:
                return None

    def last_words(self, why: Why | None) -> Wish:
        """What a call ends with for this reason; None: nothing, or what the agent says by itself."""
        match why:
            case Why.MACHINE:
                return Verbatim(self.message) if self.message else None
            case Why.IDLE:
                return self.phrases.goodbye_to_nobody
            case Why.AGENT:
                return self.phrases.goodbye_of_the_agent
            case _:
                return self.phrases.goodbye

    def interruption(self, can: Capabilities) -> Interruption | None:
        """What judges interruptions in the worker; None where the model's server does."""
        if not self.local_barge_in or can.answers or can.server_interrupts or can.continuous_output:
            return None
        back_channels = BackChannels(self.back_channels)
        return Interruption(min_ms=self.barge_in_min_ms, silence_ms=self.silence_ms, back_channels=back_channels)
