"""An outbound call asked for on the bus (`v1.<org>.originate.<entrance>`), by the command line or an API.

Request-reply in a queue group: one gateway of the entrance places the call. The reply comes at once, with the call's
id; everything that follows (ringing, answer, end with its `Termination`) stands in the call's event stream.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from libs.contracts.agent import AgentConfig, Backend
from libs.contracts.model import Message
from libs.contracts.termination import Reason


class AgentChanges(Message):
    """What this one call wants different from its agent's document; None leaves it as it is."""

    backend: Backend | None = None
    model: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    voice: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    prompt: str | None = None
    silence_ms: Annotated[int, Field(ge=100, le=10_000)] | None = None
    threshold: Annotated[float, Field(ge=-96, le=1)] | None = None  # dBFS with the pipeline
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2000)] | None = None
    recording: Literal["off", "announce", "on"] | None = None

    def applied_to(self, agent: AgentConfig) -> AgentConfig:
        """The agent of this call.

        Raises:
            ValueError: the changed document is not valid (pydantic's ValidationError is one).
        """
        wanted = self.model_dump(exclude_none=True, exclude={"schema_version"})
        turn_taking: dict[str, object] = {
            key: wanted.pop(key) for key in ("silence_ms", "threshold", "prefix_padding_ms") if key in wanted
        }
        if self.backend not in (None, agent.backend):  # its own way to detect turns, and its own model
            of_its_own = dict.fromkeys(("mode", "threshold", "silence_ms", "idle_timeout_ms"))
            turn_taking = of_its_own | turn_taking
            wanted.setdefault("model", None)
        if turn_taking:
            wanted["turn_taking"] = agent.turn_taking.model_dump() | turn_taking
        return AgentConfig.model_validate(agent.model_dump() | wanted)


class Originate(Message):
    """Place a call. `to` is a number as a person writes it, or a SIP URI where the trunk allows those."""

    kind: Literal["originate"] = "originate"
    to: Annotated[str, Field(min_length=1, max_length=200)]
    agent: str
    trunk: str | None = None  # None: the first one that may call this number
    caller: str | None = None  # the number that the callee sees; None: the trunk's
    changes: AgentChanges = AgentChanges()
    ring_timeout_s: Annotated[float, Field(ge=1, le=300)] = 60
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""  # the same id again is the same call


class OriginateReply(Message):
    """The call is on its way, or one sentence saying why not and what to do."""

    ok: bool
    call: str = ""
    gw: str = ""
    error: str = ""
    reason: Reason | None = None
