"""SIP_STACK=pyvoip: the same far ends, another stack between them and the legs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import ClassVar

from libs.call_leg.fences import OutboundFence, OutboundRules
from services.sip_gateway.pyvoip import PyVoipGateway
from services.sip_gateway.pyvoip_phone import Account
from tests.conformance.far_phone import Dialled, PickedUp, softphone
from tests.conformance.world import World
from tests.support.registrar import Registrar
from tests.unit.softphone.answering import AnsweringSide

RTP_PORTS = (20_000, 24_000)


class PyVoipDriver:
    name = "pyvoip"
    entrance = "sip"
    cannot: ClassVar[Mapping[str, str]] = {
        "test_an_operator_holds_the_call_and_takes_it_back": "it sends no re-INVITE",
        "test_a_call_is_transferred_by_refer": "it knows no REFER",
        "test_an_answer_without_ack_is_repeated": "it repeats its 200 only when the INVITE comes again",
        "test_a_held_caller_is_told_recvonly": "after a hold it answers recvonly for ever",
        "test_a_stranger_gets_no_answer_at_all": "it answers whoever asks",
        "test_the_first_invite_is_repeated_when_it_is_lost": "it sends each request once",
    }

    async def start(self, world: World) -> None:
        self._world = world
        self.side = await world.stack.enter_async_context(await AnsweringSide.open())
        registrar = await world.stack.enter_async_context(await Registrar.open(self.side.address))
        self.phone = await softphone(world.stack)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        account = Account(*registrar.address, "bestellung", "secret", "127.0.0.1", self.port, RTP_PORTS)
        fence = OutboundFence(OutboundRules())
        self.gateway = PyVoipGateway(account, fence, world.bus, world.legs, world.config)
        world.run(self.gateway.run())
        await self.gateway.start()
        world.stack.callback(self.gateway.ticker.close)
        world.stack.push_async_callback(self.gateway.stop)
        await asyncio.sleep(1.1)  # the package starts to listen a fixed second after it has registered

    @property
    def sip_address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    async def dials(self, user: str) -> Dialled:
        return await Dialled.dial(self.phone, f"sip:{user}@127.0.0.1:{self.port}")

    async def callee(self, behaviour: str) -> str:
        self.side.answers = behaviour == "answers"
        self.side.rejects = 486 if behaviour == "busy" else None
        return "+49301234567"

    async def picked_up(self) -> PickedUp:
        await self._world.until(lambda: self.side.legs)
        ((dialog, leg),) = self.side.legs.items()
        return PickedUp(self.side, dialog, leg)
