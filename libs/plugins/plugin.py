"""What a plug-in is: a name, a description, typed parameters and `execute`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from structlog.typing import FilteringBoundLogger

from libs.contracts.ids import is_token
from libs.contracts.tool import ToolDescription
from libs.plugins.schema import SchemaError, openai_tool, parameters_schema


class PluginError(Exception):
    """Raised by a plug-in: one sentence that the model passes on ("The customer has no open invoices.")."""


class PluginDefinitionError(TypeError):
    """A class that is no plug-in, and why; raised when it is loaded, not during a call."""


class NoParameters(BaseModel):
    """Parameters of a plug-in that takes none."""

    model_config = ConfigDict(extra="ignore")


P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class PluginContext:
    """On whose behalf a plug-in is called. `tool_call_id` is the idempotency key: equal for a repeated request."""

    org: str
    call: str
    epoch: int
    caller: str  # E.164, or what the entrance knows: "anonymous", a SIP user
    agent: str
    tool_call_id: str
    deadline_at: datetime  # after it nobody waits for the result
    log: FilteringBoundLogger

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; for time limits of what the plug-in asks in its turn."""
        return max(0.0, (self.deadline_at - datetime.now(UTC)).total_seconds())


class ExternalPlugin(ABC, Generic[P]):
    """One tool. An instance serves all calls of its process, several at a time.

    - `name`: letters, digits, `_` and `-`; the tool's name for the model, unique on the bus.
    - `description`: tells the model what it is for and when to use it.
    - `parameters`: a pydantic model; `Field(description=...)` of each field is told to the model.
    - `idempotent`: a request may be carried out again (a look-up). Otherwise the host remembers its answer by
      `tool_call_id`, and repeats that.
    - `timeout_s`: how long it may take at most; the call's deadline may be nearer.
    - `most_result_bytes`: a larger result becomes an error sentence, rather than filling the model's context.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    parameters: ClassVar[type[BaseModel]] = NoParameters
    idempotent: ClassVar[bool] = False
    timeout_s: ClassVar[float] = 8.0
    most_result_bytes: ClassVar[int] = 16_384

    @abstractmethod
    def execute(self, params: P, context: PluginContext) -> object:
        """Do it: an `async def`, or a plain `def`, which runs in a thread of its own.

        Returns:
            Anything that JSON can say, or a pydantic model. A `say` in it is a text ready to be spoken.

        Raises:
            PluginError: a sentence for the model. Anything else is logged, and the model is told that it failed.
        """

    async def start(self) -> None:
        """Before the first call: open clients, connections. A failure keeps the plug-in off the bus."""

    async def stop(self) -> None:
        """After the last call."""

    @classmethod
    def describe(cls) -> ToolDescription:
        """What workers find in the endpoint's metadata.

        Raises:
            PluginDefinitionError: name, description, parameters or limits cannot be told.
        """
        name, description = getattr(cls, "name", ""), getattr(cls, "description", "")
        if not isinstance(name, str) or not is_token(name) or len(name) > 64:
            raise PluginDefinitionError(f"{cls.__qualname__}.name is {name!r}: letters, digits, _ and -, at most 64")
        if not isinstance(description, str) or not description.strip():
            raise PluginDefinitionError(f"{cls.__qualname__}.description is empty: the model could not use it")
        if not (isinstance(cls.parameters, type) and issubclass(cls.parameters, BaseModel)):
            raise PluginDefinitionError(f"{cls.__qualname__}.parameters is not a pydantic model")
        if not 0 < cls.timeout_s <= 60:
            raise PluginDefinitionError(f"{cls.__qualname__}.timeout_s is {cls.timeout_s:g}: more than 0, at most 60")
        try:
            parameters = parameters_schema(cls.parameters)
        except SchemaError as error:
            raise PluginDefinitionError(f"{cls.__qualname__}: {error}") from None
        return ToolDescription(
            name=name,
            description=description.strip(),
            parameters=parameters,
            idempotent=cls.idempotent,
            timeout_ms=round(cls.timeout_s * 1000),
        )

    @classmethod
    def openai_tool(cls, *, is_strict: bool = True) -> dict[str, Any]:
        """The tool as OpenAI's APIs take it.

        Raises:
            PluginDefinitionError: see `describe`.
        """
        return openai_tool(cls.describe(), is_strict=is_strict)
