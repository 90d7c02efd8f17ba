"""The far ends of the conformance suite, as Twilio shows them to the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from libs.call_leg.admission_shell import Admission
from libs.call_leg.originate import Originations
from services.twilio_gateway.__main__ import rest_api
from services.twilio_gateway.gateway import TwilioGateway
from services.twilio_gateway.settings import Settings
from services.twilio_gateway.web import WebServer
from tests.conformance.world import World
from tests.unit.twilio_gateway.twilio import ACCOUNT, AUTH_TOKEN, FakeCall, FakeTwilio

PUBLIC_URL = "https://calls.example.com"
LOW_HZ, HIGH_HZ = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
KEYS = "123A456B789C*0#D"


class Far:
    """One call at Twilio in telephone terms."""

    def __init__(self, call: FakeCall) -> None:
        self.call = call

    async def wait_answered(self) -> None:
        await self.call.until(lambda: self.call.marks, 10)

    async def wait_refused(self) -> None:
        await self.wait_over()
        assert self.call.streams == 0

    async def wait_over(self) -> None:
        await self.call.until(lambda: self.call.is_over, 20)

    async def says(self, pcm: bytes) -> None:
        await self.call.until(lambda: self.call.marks)
        await self.call.says(pcm)

    def heard(self) -> bytes:
        return self.call.heard_pcm()

    async def presses(self, digit: str) -> None:
        await self.call.send({"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": digit}})

    def pressed(self) -> str:
        """The keys among the tones that were heard."""
        keys, last, silent = "", None, 0
        for frame in self.call.heard_frames():
            now = key_of(frame)
            silent = 0 if now is not None else silent + 1
            if now is not None and now != last:
                keys += now
                last = now
            elif silent >= 2:  # one frame may be missing on a busy machine; the pause between keys has three
                last = None
        return keys

    async def hangs_up(self) -> None:
        await self.call.hang_up()

    async def gives_up(self) -> None:
        self.call.is_over = True
        await self.call.twilio.post(f"{PUBLIC_URL}/status", self.call.form(CallStatus="canceled"))

    async def holds(self, held: bool) -> None:
        raise NotImplementedError("a Twilio caller's own hold is not seen on a media stream")


def key_of(pcm: bytes) -> str | None:
    """The key whose two frequencies hold nearly all of a frame's energy (ITU-T Q.23)."""
    samples = np.frombuffer(pcm, "<i2").astype(float)
    energy = float(np.sum(samples**2))
    if energy < 1e6:
        return None
    at = np.arange(len(samples)) / 8000

    def power(hz: int) -> float:
        return float(np.abs(np.sum(samples * np.exp(-2j * np.pi * hz * at))) ** 2) * 2 / len(samples)

    low, high = [power(hz) for hz in LOW_HZ], [power(hz) for hz in HIGH_HZ]
    if max(low) + max(high) < 0.8 * energy or min(max(low), max(high)) < 0.1 * energy:
        return None
    return KEYS[4 * low.index(max(low)) + high.index(max(high))]


class TwilioDriver:
    name = "twilio"
    entrance = "twilio"
    cannot: ClassVar[Mapping[str, str]] = {}

    async def start(self, world: World) -> None:
        self.twilio = twilio = await world.stack.enter_async_context(FakeTwilio(PUBLIC_URL))
        settings = Settings(
            _env_file=None, twilio_account_sid=ACCOUNT, twilio_auth_token=AUTH_TOKEN, twilio_listen_port=0,
            twilio_api_base_url=twilio.api_url, public_url=PUBLIC_URL, twilio_from="+4930555000",
        )  # fmt: skip
        api = rest_api(settings)
        admission = Admission(world.bus, world.legs, world.config)
        gateway = TwilioGateway(settings, world.bus, world.legs, admission, api)
        web = WebServer(settings, gateway)
        await admission.start()
        for part in (admission, gateway):
            world.run(part.run())
        await web.start()
        originations = Originations("twilio", world.legs, world.config, admission, gateway.fences, gateway.place)
        await originations.start(world.bus)
        twilio.connect_url = f"http://127.0.0.1:{web.port}"
        world.stack.push_async_callback(api.close)
        world.stack.push_async_callback(web.stop)
        world.stack.callback(gateway.ticker.close)

    async def dials(self, user: str) -> Far:
        call = self.twilio.incoming(to=f"sip:{user}@callbus.sip.twilio.com")
        call.later(call.ring())
        return Far(call)

    async def callee(self, behaviour: str) -> str:
        async def busy(call: FakeCall) -> None:
            await call.status("ringing")
            await call.status("busy", SipResponseCode="486")

        async def silent(call: FakeCall) -> None:
            await call.status("ringing")
            await asyncio.sleep(call.timeout_s)
            if not call.is_over:
                await call.status("no-answer")

        if behaviour != "answers":
            self.twilio.on_create = busy if behaviour == "busy" else silent
        return "+49301234567"

    async def picked_up(self) -> Far:
        async with asyncio.timeout(10):
            while not self.twilio.calls:  # noqa: ASYNC110  state has no event
                await asyncio.sleep(0.01)
        far = Far(list(self.twilio.calls.values())[-1])
        await far.wait_answered()
        return far
