"""The far end of a SIP call: our softphone when it dials, a small answering side when it is dialled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from libs.audio.dtmf import DtmfReceiver
from libs.audio.g711 import Law
from libs.audio.rtp import RtpError, RtpPacket
from libs.sip.events import Ended
from libs.sip.sdp import Direction
from libs.softphone.call import CallOptions, CallRejected
from libs.softphone.phone import Softphone
from tests.unit.softphone.answering import AnsweringSide, Echo

FRAME_S = 0.02
LAWS = {law.payload_type: law for law in Law}


class Dialled:
    """A call that the softphone placed."""

    def __init__(self) -> None:
        self._digits = DtmfReceiver()
        self._pressed: list[str] = []

    @classmethod
    async def dial(cls, phone: Softphone, uri: str) -> Dialled:
        far = cls()
        far._call = await phone.dial(uri, options=CallOptions(on_packet=far._listen_for_keys))
        return far

    def _listen_for_keys(self, data: bytes, _: float) -> None:
        with suppress(RtpError):
            packet = RtpPacket.parse(data)
            if packet.payload_type == 101:
                digit = self._digits.push(packet.payload, packet.timestamp, packet.marker)
                self._pressed += [digit] if digit else []

    async def wait_answered(self) -> None:
        await self._call.wait_answered(10)

    async def wait_refused(self) -> None:
        with suppress(CallRejected):
            await self._call.wait_answered(10)
            raise AssertionError("the call was answered")

    async def wait_over(self) -> None:
        await self._call.wait_ended(10)

    async def says(self, pcm: bytes) -> None:
        await self._call.play(pcm).wait()

    def heard(self) -> bytes:
        return bytes(self._call.heard)

    async def presses(self, digit: str) -> None:
        await self._call.send_dtmf(digit)

    def pressed(self) -> str:
        return "".join(self._pressed)

    async def hangs_up(self) -> None:
        await self._call.hang_up()

    async def gives_up(self) -> None:
        with suppress(CallRejected):
            await self._call.cancel()

    async def holds(self, held: bool) -> Direction:
        return await self._call.set_direction(Direction.SENDONLY if held else Direction.SENDRECV)


class PickedUp:
    """A call that the answering side took."""

    def __init__(self, side: AnsweringSide, dialog: str, leg: Echo) -> None:
        self._side, self._dialog, self._leg = side, dialog, leg
        leg.echoes = False

    async def wait_answered(self) -> None:
        """It is."""

    async def wait_over(self) -> None:
        await self._side.until(Ended)

    async def says(self, pcm: bytes) -> None:
        async with asyncio.timeout(5):
            while not self._leg.packets:  # noqa: ASYNC110  a socket of the fixture has no event
                await asyncio.sleep(FRAME_S)
        law = LAWS[self._leg.packets[0].payload_type]
        for number in range(len(pcm) // 320):
            payload = law.encode(pcm[number * 320 : (number + 1) * 320])
            packet = RtpPacket(law.payload_type, number, number * 160, 77, payload, number == 0)
            self._leg.transport.sendto(packet.serialize(), self._leg.peer)
            await asyncio.sleep(FRAME_S)

    def heard(self) -> bytes:
        packets = [packet for packet in self._leg.packets if packet.payload_type in LAWS]
        return b"".join(LAWS[packet.payload_type].decode(packet.payload) for packet in packets)

    def pressed(self) -> str:
        return "".join(self._leg.digits)

    async def hangs_up(self) -> None:
        side = self._side
        side.act(side.agent.bye(self._dialog, side.loop.time()))


async def softphone(stack) -> Softphone:
    """One that is closed with the stack."""
    return await stack.enter_async_context(await Softphone.open())
