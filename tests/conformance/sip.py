"""SIP with our own stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from services.sip_gateway.gateway import SipGateway
from services.sip_gateway.settings import Settings
from tests.conformance.far_phone import Dialled, PickedUp, softphone
from tests.conformance.world import World
from tests.unit.softphone.answering import AnsweringSide


class SipDriver:
    name = "sip"
    entrance = "sip"
    cannot: ClassVar[Mapping[str, str]] = {}

    async def start(self, world: World) -> None:
        self._world = world
        self.side = await world.stack.enter_async_context(await AnsweringSide.open())
        self.phone = await softphone(world.stack)
        settings = Settings(_env_file=None, **self.settings())
        self.gateway = gateway = SipGateway(settings, world.bus, world.legs, world.config)
        world.run(gateway.run())
        await gateway.transport.open(0)
        world.stack.callback(gateway.ticker.close)
        world.stack.callback(gateway.transport.close)

    def settings(self) -> dict:
        return {
            "sip_listen_host": "127.0.0.1", "sip_listen_port": 0,
            "sip_server": "127.0.0.1", "sip_port": self.side.address[1],
        }  # fmt: skip

    async def dials(self, user: str) -> Dialled:
        return await Dialled.dial(self.phone, f"sip:{user}@127.0.0.1:{self.gateway.transport.port}")

    async def callee(self, behaviour: str) -> str:
        self.side.answers = behaviour == "answers"
        self.side.rejects = 486 if behaviour == "busy" else None
        return "+49301234567"

    async def picked_up(self) -> PickedUp:
        await self._world.until(lambda: self.side.legs)
        ((dialog, leg),) = self.side.legs.items()
        return PickedUp(self.side, dialog, leg)
