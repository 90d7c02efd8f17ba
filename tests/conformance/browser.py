"""Calls from a page, over its own protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

import aiohttp

from services.browser_gateway.gateway import BrowserGateway
from services.browser_gateway.settings import Settings
from services.browser_gateway.web import PageServer
from tests.conformance.world import World
from tests.unit.browser_gateway.conftest import Page

NO_KEYS = "a page has no keypad on our side: keys towards it are refused with a sentence"
NO_OUTBOUND = "nobody calls a page: it calls us"


def to_16k(pcm: bytes) -> bytes:
    return b"".join(2 * pcm[at : at + 2] for at in range(0, len(pcm), 2))


def to_8k(pcm: bytes) -> bytes:
    return b"".join(pcm[at : at + 2] for at in range(0, len(pcm) - 3, 4))


class AtPage:
    """A person at a page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._silence = asyncio.create_task(self._be_silent())
        self._speaking = False

    async def _be_silent(self) -> None:
        """A microphone that is open sends, also silence."""
        while True:
            if not self._speaking and not self._page.socket.closed:
                await self._page.send(bytes(640))
            await asyncio.sleep(0.02)

    async def wait_answered(self) -> None:
        await self._page.message("answered")

    async def wait_refused(self) -> None:
        await self._page.end()
        assert not any(message["type"] == "answered" for message in self._page.told)

    async def wait_over(self) -> None:
        await self._page.end()

    async def says(self, pcm: bytes) -> None:
        self._speaking = True
        await self._page.speak(to_16k(pcm))
        self._speaking = False

    def heard(self) -> bytes:
        return to_8k(bytes(self._page.heard))

    async def presses(self, digit: str) -> None:
        await self._page.say(type="dtmf", digit=digit)

    def pressed(self) -> str:
        return ""

    async def hangs_up(self) -> None:
        await self._page.say(type="hang_up")

    async def gives_up(self) -> None:
        await self._page.leave()

    async def holds(self, held: bool) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        self._silence.cancel()
        await self._page.stop()


class BrowserDriver:
    name = "browser"
    entrance = "browser"
    cannot: ClassVar[Mapping[str, str]] = {
        "test_keys_are_pressed_towards_the_caller": NO_KEYS,
        "test_a_call_is_placed_and_both_hear_each_other": NO_OUTBOUND,
        "test_a_busy_callee_ends_the_call": NO_OUTBOUND,
        "test_a_callee_who_does_not_answer_ends_the_call": NO_OUTBOUND,
        "test_a_placed_call_is_given_up_while_it_rings": NO_OUTBOUND,
    }

    async def start(self, world: World) -> None:
        self._world = world
        settings = Settings(_env_file=None, browser_listen_host="127.0.0.1", browser_listen_port=0)
        self.gateway = gateway = BrowserGateway(settings, world.bus, world.legs, world.config)
        self._web = web = PageServer(settings, gateway, world.config)
        await gateway.admission.start()
        world.run(gateway.admission.run())
        self._http = await world.stack.enter_async_context(aiohttp.ClientSession())
        world.stack.callback(gateway.ticker.close)
        await web.start()
        world.stack.push_async_callback(web.stop)
        await gateway.listen()

    async def dials(self, user: str) -> AtPage:
        base = f"http://127.0.0.1:{self._web.port}"
        async with self._http.post(f"{base}/token", json={"to": user}, headers={"Origin": base}) as reply:
            token = (await reply.json())["token"]
        page = Page(await self._http.ws_connect(f"{base}/call"))
        far = AtPage(page)
        self._world.stack.push_async_callback(far.stop)
        await page.say(type="hello", token=token)
        return far

    async def callee(self, behaviour: str) -> str:
        return "+49301234567"

    async def picked_up(self) -> AtPage:
        raise NotImplementedError
