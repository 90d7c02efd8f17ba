"""Whom an agent may connect a caller with: names for the model, numbers for the gateway."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from libs.contracts.model import Message

TargetName = Annotated[str, Field(min_length=1, max_length=64)]


class TransferTarget(Message):
    """One target. In files a plain text is its number.

    `mode` as in the command `transfer`: `auto` is what the trunk can. `announcement` is said to the target of a bridged
    transfer before the two are joined.
    """

    number: str = Field(min_length=1, max_length=200)  # E.164, an extension or a SIP user of the trunk
    description: Annotated[str, Field(max_length=300)] = ""  # for the model: when to connect with it
    mode: Literal["auto", "refer", "bridge"] = "auto"
    announcement: Annotated[str, Field(max_length=500)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _number_alone(cls, value: object) -> object:
        return {"number": value} if isinstance(value, str) else value


class Transfers(Message):
    """The tool `transfer_call` of an agent: its targets by name, and whether any number may be called.

    `any_number` lets whoever talks to the agent have your trunk call any number: think of the bill.
    """

    targets: dict[TargetName, TransferTarget] = {}
    any_number: bool = False
