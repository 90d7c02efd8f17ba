"""A call's transfers, one after the other: what is told about each, and its time limit. A core without I/O.

Theory of operation. `begin` -> pending -> exactly one of `done` and `failed`; both are told once, whoever is
second changes nothing. A target that has answered may hear an announcement first: still pending, with a limit of its
own. The leg decides what follows from an end; the entrance does the work. `state` is what
a session is told (R8): it stays `failed` until a session knows of it (`told`), so that one that takes the call
over while the transfer runs tells the caller, and one that comes long after does not.
"""

from __future__ import annotations

from typing import Literal

from libs.call_leg.actions import Action, Announce, PublishTransfer, StartTransfer, TransferMode
from libs.contracts.commands import Transfer

TRANSFER_LIMIT_S = 60.0
ANNOUNCEMENT_LIMIT_S = 15.0  # then the two are joined, whatever was said: somebody is waiting at either end
TRYING = 100  # SIP 100: says nothing


class TransferState:
    """One per leg."""

    def __init__(self) -> None:
        self.state: Literal["none", "pending", "done", "failed"] = "none"
        self.target = ""
        self.mode: TransferMode = "refer"
        self.announcement: str | None = None
        self.is_announcing = False
        self.deadline: float | None = None
        self._status: int | None = None
        self._requested = False

    @property
    def is_pending(self) -> bool:
        """Whether one runs."""
        return self.state == "pending"

    def begin(self, command: Transfer, now: float) -> list[Action]:
        """A transfer was asked for, and none runs."""
        self.state, self.target, self._status = "pending", command.target, None
        self.mode, self._requested = "refer", False
        self.announcement = command.announcement
        self.deadline = now + TRANSFER_LIMIT_S
        return [StartTransfer(command)]

    def began(self, mode: TransferMode) -> list[Action]:
        """The entrance has chosen its means."""
        if not self.is_pending or self._requested:
            return []
        self.mode, self._requested = mode, True
        return [PublishTransfer("requested", self.target, mode)]

    def progress(self, status: int, detail: str) -> list[Action]:
        """How the target fares; the same news is told once."""
        if not self.is_pending or status in (TRYING, self._status):
            return []
        self._status = status
        return [PublishTransfer("ringing", self.target, self.mode, status, detail)]

    def announce(self, text: str, now: float) -> list[Action]:
        """The target has answered, and there is somebody who tells it who comes."""
        self.is_announcing = True
        self.deadline = now + ANNOUNCEMENT_LIMIT_S
        return [Announce(text)]

    def done(self, status: int | None, detail: str) -> list[Action]:
        """The other side is with the target now."""
        return self._end("done", status, detail)

    def failed(self, status: int | None, detail: str) -> list[Action]:
        """The other side is back with the agent."""
        return self._end("failed", status, detail)

    def _end(self, state: Literal["done", "failed"], status: int | None, detail: str) -> list[Action]:
        if not self.is_pending:
            return []
        self.state, self.deadline, self.is_announcing = state, None, False
        return [PublishTransfer(state, self.target, self.mode, status, detail)]

    def told(self) -> None:
        """The owner that knew of the failure is lost, or a person has the call: no successor tells it again."""
        if self.state == "failed":
            self.state = "none"
