"""A gateway without telephony for the tests of the command line: trunks, originate, commands to the leg, events."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from libs.contracts import events as ev, subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import Command, CommandReply, HangUp
from libs.contracts.heartbeat import CallEntry
from libs.contracts.originate import Originate, OriginateReply
from libs.contracts.rpc import RpcReply
from libs.contracts.termination import Reason, Termination
from libs.contracts.wire import leg_command_decoder
from libs.runtime.streams import bucket, provision

CALL = "01JCALL0000000000000000001"
BEGAN_AT = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
AGENT = AgentConfig(name="bestellung", prompt="Nimm Bestellungen an.")


class FakeGateway:
    """Answers as told; `wishes` and `commands` hold what was asked."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.trunks: list[list[dict[str, Any]]] = [
            [{"name": "provider", "state": "registered", "registers": True, "organisation": None}]
        ]
        self.reply = OriginateReply(ok=True, call=CALL, gw="gw-1")
        self.wishes: list[Originate] = []
        self.commands: list[Any] = []
        self.command_reply = CommandReply(ok=True)
        self.ends_when_told = True
        self.asked = asyncio.Event()
        self._n = 0

    async def start(self) -> FakeGateway:
        """Make the stream and buckets, publish the agent, listen."""
        await provision(self.client.jetstream())
        await (await bucket(self.client.jetstream(), subjects.KV_CONFIG)).put(AGENT.key, AGENT.to_json())
        await self.client.subscribe(subjects.rpc("sip_gateway", "trunks"), cb=self._on_trunks)
        await self.client.subscribe(subjects.originate("*", "sip"), cb=self._on_originate)
        await self.client.subscribe(subjects.control("*", "*", "leg"), cb=self._on_command)
        await self.client.flush()
        return self

    async def entry(self, call: str = CALL, phase: str = "talking", **changed: Any) -> CallEntry:
        """A call in KV `calls`."""
        fields = {"gw": "gw-1", "wk": "wk-1", "epoch": 1, "agent": "bestellung", "caller": "+4930111", "callee": "100"}
        entry = CallEntry(call=call, org="default", phase=phase, **(fields | changed))
        await (await bucket(self.client.jetstream(), subjects.KV_CALLS)).put(call, entry.to_json())
        return entry

    async def publish(self, kind: type[ev.CallEvent], call: str = CALL, **fields: Any) -> None:
        """One event of a call."""
        self._n += 1
        event = kind(
            event_id=f"{call}:gw:{self._n}",
            org="default",
            call=call,
            at=fields.pop("at", BEGAN_AT + timedelta(milliseconds=20 * self._n)),
            **fields,
        )
        name = kind.model_fields["kind"].default
        await self.client.jetstream().publish(subjects.event("default", call, name), event.to_json())

    async def offered(self, call: str = CALL, **fields: Any) -> None:
        """The beginning of an outbound call."""
        common = {"direction": "outbound", "entrance": "sip", "gw": "gw-1", "agent": "bestellung"}
        await self.publish(ev.CallOffered, call, **(common | {"caller": "+4930999", "callee": "+4930111"} | fields))

    async def ended(self, reason: Reason, call: str = CALL, **fields: Any) -> None:
        """The end of a call."""
        await self.publish(ev.CallEnded, call, termination=Termination.of(reason), **fields)

    async def sip(self, direction: str, text: str, call: str = CALL, **fields: Any) -> None:
        """A traced message; lines end in CRLF on the wire."""
        addresses = {"local": "127.0.0.1:5060", "peer": "192.0.2.7:5070"}
        wire = text.strip("\n").replace("\n", "\r\n")
        await self.publish(ev.SipTraced, call, direction=direction, text=wire, **(addresses | fields))

    async def _on_trunks(self, message: Msg) -> None:
        now = self.trunks.pop(0) if len(self.trunks) > 1 else self.trunks[0]
        await message.respond(RpcReply(ok=True, data={"trunks": now}).to_json())

    async def _on_originate(self, message: Msg) -> None:
        self.wishes.append(Originate.model_validate_json(message.data))
        await message.respond(self.reply.to_json())
        self.asked.set()

    async def _on_command(self, message: Msg) -> None:
        command: Command | None = leg_command_decoder().decode(message.data)
        self.commands.append(command)
        await message.respond(self.command_reply.to_json())
        if isinstance(command, HangUp) and self.ends_when_told:
            await self.ended(command.reason)
