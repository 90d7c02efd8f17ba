"""The trunks of the SIP gateway as its query `v1.rpc.sip_gateway.trunks` tells of them."""

from __future__ import annotations

import asyncio
from typing import Any

from nats.aio.client import Client
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from rich.console import Console

from cli.bus import query
from cli.errors import CliError
from cli.exit_codes import ExitCode

SIP_GATEWAY = "sip_gateway"
REGISTERED = "registered"
UNRESOLVED = "unresolved"
LOOK_AGAIN_S = 0.2


class TrunkState(BaseModel):
    """One trunk: `state` is its registration's (`registered`, `registering`, `failed`, `unregistered` …); without
    one it is `ready`, or `unresolved` while its server's name is not known."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    state: str = ""
    registers: bool = True  # False: it takes and places calls without a registration
    server: str = ""
    organisation: str | None = None  # None: every one may use it
    problem: str = ""
    next_try_in_s: float | None = None

    @property
    def usable(self) -> bool:
        """Whether calls can be placed through it now."""
        return self.state == REGISTERED if self.registers else self.state != UNRESOLVED

    @property
    def shown(self) -> str:
        """For a sentence."""
        at = f" at {self.server}" if self.server else ""
        again = f"next try in {self.next_try_in_s:.0f} s" if self.next_try_in_s is not None and not self.usable else ""
        more = ", ".join(part for part in (self.problem, again) if part)
        state = "has failed" if self.state == "failed" else f"is {self.state or 'unknown'}"
        return f"{self.name}{at} {state}" + (f" ({more})" if more else "")


_TRUNKS = TypeAdapter(list[TrunkState])


async def trunks(client: Client) -> list[TrunkState]:
    """All trunks of a SIP gateway.

    Raises:
        CliError: none runs, or its answer cannot be read.
    """
    data: Any = await query(client, SIP_GATEWAY, "trunks")
    try:
        return _TRUNKS.validate_python(data["trunks"] if isinstance(data, dict) else data)
    except (KeyError, ValidationError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{error} is missing"
        raise CliError(f"sip_gateway's list of trunks cannot be read: {why}") from error


async def wait_for_trunk(client: Client, org: str, name: str | None, timeout_s: float, said: Console) -> None:
    """Return when the trunk, or without a name any of the organisation, can place calls.

    Raises:
        CliError: there is no such trunk, or it did not register in time.
    """
    loop = asyncio.get_running_loop()
    deadline_at = loop.time() + timeout_s
    is_told = False
    while True:
        every = [trunk for trunk in await trunks(client) if trunk.organisation in {None, "", org}]
        chosen = [trunk for trunk in every if name in (None, trunk.name)]
        if not every:
            raise CliError(
                "there is no SIP trunk to call through: set SIP_SERVER, SIP_USERNAME and SIP_PASSWORD "
                "(.env.example), or list several in the file that SIP_TRUNKS_FILE names",
                ExitCode.TRUNK_FAILED,
            )
        if not chosen:
            there = ", ".join(trunk.name for trunk in every)
            raise CliError(f"there is no trunk named {name!r}: there are {there}", ExitCode.TRUNK_FAILED)
        if any(trunk.usable for trunk in chosen):
            return
        states = "; ".join(trunk.shown for trunk in chosen)
        if loop.time() >= deadline_at:
            raise CliError(
                f"no trunk was ready within {timeout_s:g} s: {states}. Check its server, user and password, "
                "or give it longer with --reg-timeout",
                ExitCode.NOT_REGISTERED,
            )
        if not is_told:
            said.print(f"waiting for the trunk: {states}", style="dim", markup=False, soft_wrap=True)
            is_told = True
        await asyncio.sleep(LOOK_AGAIN_S)
