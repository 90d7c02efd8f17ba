"""SIP with our own stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from services.sip_gateway.gateway import SipGateway
from services.sip_gateway.settings import Settings
from tests.conformance.far_phone import Dialled, PickedUp, softphone
from tests.conformance.world import World
from tests.unit.softphone.answering import AnsweringSide

TRUNK = "trunks: [{{name: far, server: 127.0.0.1, port: {port}}}]"


class SipDriver:
    name = "sip"
    entrance = "sip"
    cannot: ClassVar[Mapping[str, str]] = {}

    async def start(self, world: World) -> None:
        self._world = world
        self.side = await world.stack.enter_async_context(await AnsweringSide.open())
        self.phone = await softphone(world.stack)
        folder = Path(world.stack.enter_context(TemporaryDirectory(prefix="callbus-")))
        trunks = folder / "trunks.yaml"
        trunks.write_text(TRUNK.format(port=self.side.address[1]))
        settings = Settings(
            _env_file=None,
            sip_listen_host="127.0.0.1",
            sip_listen_port=0,
            sip_trunks_file=trunks,
            sip_server=None,
            sip_allowed_sources="127.0.0.1/32",
        )
        self.gateway = gateway = SipGateway(settings, world.bus, world.legs, world.config, world.outbox)
        world.run(gateway.run())
        await gateway.open()
        world.stack.callback(gateway.ticker.close)
        world.stack.callback(gateway.transport.close)

    @property
    def sip_address(self) -> tuple[str, int]:
        return "127.0.0.1", self.gateway.transport.port

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
