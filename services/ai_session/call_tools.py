"""Tools that the session carries out itself, because they are about the call: end it, transfer it, press keys.

They are never asked of the bus; the agent must list them like any other. Commands go to the leg with the session's
epoch, so that a fenced session can do nothing (R7).
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from libs.contracts.agent import AgentConfig
from libs.contracts.commands import SendDtmf, Transfer
from libs.contracts.number_patterns import E164
from libs.contracts.tool import OF_THE_SESSION, ToolDescription, ToolReply
from libs.contracts.transfers import TransferTarget
from libs.plugins.outcome import failed
from libs.plugins.schema import parameters_schema, read_arguments, sentence
from services.ai_session.bridge import Bridge
from services.ai_session.leg_link import LegLink

NAMES = OF_THE_SESSION
TRANSFER_CALL = "transfer_call"
ENDS_CALL = ("end_call", "hang_up")

LAST_WORDS_S = 10.0  # "I'm putting you through" is heard before it happens
TRANSFER_S = 90.0  # the leg's own limits, 60 s and 15 s for the announcement, come first


class Nothing(BaseModel):
    """No parameters."""


class TransferTo(BaseModel):
    """Parameters of transfer_call."""

    target: str = Field(min_length=1, max_length=64)


class Keys(BaseModel):
    """Parameters of send_dtmf."""

    digits: Annotated[
        str, BeforeValidator(lambda text: re.sub(r"[\s.,-]", "", str(text))), Field(pattern=r"^[0-9A-D*#]{1,32}$")
    ] = Field(description="Keys in order, 0-9, * and #: '2' or '4711#'")


def descriptions(agent: AgentConfig, names: tuple[str, ...]) -> list[ToolDescription]:
    """What the model is told of those tools that the agent lists; a transfer with no possible target is left out."""
    return [tool for name in NAMES if name in names and (tool := _describe(agent, name)) is not None]


def _describe(agent: AgentConfig, name: str) -> ToolDescription | None:
    match name:
        case "transfer_call":
            return _transfer_call(agent)
        case "send_dtmf":
            about = "Presses keys on the line, for the menu of another telephone system ('for orders press 2')."
            return ToolDescription(name=name, description=about, parameters=parameters_schema(Keys))
    about = "End the call. Say goodbye first; the line closes when your words have been heard."
    return ToolDescription(name=name, description=about, parameters=parameters_schema(Nothing))


def _transfer_call(agent: AgentConfig) -> ToolDescription | None:
    transfers = agent.transfers
    if not transfers.targets and not transfers.any_number:
        return None
    lines = [f"{name}: {target.description}".rstrip(": ") for name, target in transfers.targets.items()]
    known = f" Targets: {'; '.join(lines)}." if lines else ""
    free = " A number in E.164 (+49...) is possible, too." if transfers.any_number else ""
    target: dict[str, Any] = {"type": "string", "description": "Whom to connect the caller with"}
    if not transfers.any_number:
        target["enum"] = list(transfers.targets)
    return ToolDescription(
        name=TRANSFER_CALL,
        description="Connects the caller with a person or another line, and ends your part. First say that you are "
        f"putting the caller through. If nobody can be reached, the caller comes back to you.{known}{free}",
        parameters={"type": "object", "properties": {"target": target}, "required": ["target"]},
    )


class CallTools:
    """One per session. A transfer waits for its outcome, which the session tells by `transfer_failed`, `call_over`."""

    def __init__(self, agent: AgentConfig, epoch: int, leg: LegLink, bridge: Bridge) -> None:
        self._agent, self._epoch, self._leg, self._bridge = agent, epoch, leg, bridge
        self._transfer: asyncio.Future[bool] | None = None

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolReply:
        """Carry one out; every failure is a reply that the model can apologise with."""
        try:
            match name:
                case "transfer_call":
                    return await self._connect(read_arguments(TransferTo, arguments).target)
                case "send_dtmf":
                    return await self._press(read_arguments(Keys, arguments).digits)
        except ValidationError as error:
            return failed(sentence(name, error))
        return ToolReply(ok=True, output={"status": "the call ends when your words have been heard"})

    def transfer_failed(self) -> bool:
        """The transfer came to nothing. Whether the model learns of it as a tool's result: no other word is needed."""
        return self._settle(False)

    def call_over(self) -> None:
        """The call has left this session: to its target, or altogether."""
        self._settle(True)

    def _settle(self, is_gone: bool) -> bool:
        if self._transfer is None or self._transfer.done():
            return False
        self._transfer.set_result(is_gone)
        return True

    def target(self, name: str) -> TransferTarget | None:
        """The target that the model named, by a name of the agent's list or, where that is allowed, by its number."""
        targets = self._agent.transfers.targets
        for known, target in targets.items():
            if known.casefold() == name.strip().casefold():
                return target
        number = re.sub(r"[\s()/-]", "", name)
        if self._agent.transfers.any_number and E164.fullmatch(number):
            return TransferTarget(number=number)
        return None

    async def _connect(self, name: str) -> ToolReply:
        target = self.target(name)
        if target is None:
            known = ", ".join(self._agent.transfers.targets) or "none"
            return failed(f"transfer_call: {name!r} is no target; there are {known}. Nobody was called.")
        if self._transfer is not None and not self._transfer.done():
            return failed("transfer_call: a transfer is under way already.")
        self._transfer = asyncio.get_running_loop().create_future()
        try:
            await self._last_words()
            command = Transfer(
                epoch=self._epoch, target=target.number, mode=target.mode, announcement=target.announcement
            )
            reply = await self._leg.ask(command)
            if reply is None or not reply.ok:
                why = "the line did not answer" if reply is None else reply.error
                return failed(f"The transfer to {name} was not possible: {why}. The caller is still with you.")
            async with asyncio.timeout(TRANSFER_S):
                is_gone = await self._transfer
        except TimeoutError:
            return failed(f"Whether the transfer to {name} succeeded is not known.")
        finally:
            self._transfer = None
        if is_gone:
            return ToolReply(ok=True, output={"status": "connected", "target": name})
        return failed(f"{name} could not be reached. The caller is back with you: say so, and offer to take a message.")

    async def _last_words(self) -> None:
        """Until what the agent has said is heard."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                while self._bridge.playout.busy:
                    self._bridge.drained.clear()
                    await self._bridge.drained.wait()

    async def _press(self, digits: str) -> ToolReply:
        reply = await self._leg.ask(SendDtmf(epoch=self._epoch, digits=digits))
        if reply is None or not reply.ok:
            why = "the line did not answer" if reply is None else reply.error
            return failed(f"The keys could not be pressed: {why}.")
        return ToolReply(ok=True, output={"pressed": digits})
