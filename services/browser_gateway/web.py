"""HTTP: the page, its own tokens on loopback, the WebSockets `/call` and `/operator`. Strangers learn nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from aiohttp import web

from libs.contracts.agent import DEFAULT_ORG
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger
from services.browser_gateway.connection import NO_HELLO, NOT_ACCEPTED, Connection
from services.browser_gateway.gateway import BrowserGateway
from services.browser_gateway.messages import Hello
from services.browser_gateway.page_stream import MAX_BINARY_BYTES
from services.browser_gateway.settings import Settings
from services.browser_gateway.tokens import Grant, TokenRefused

log = get_logger()

PAGE = Path(__file__).with_name("page")
HELLO_S = 5.0
HEARTBEAT_S = 5.0  # a page that answers no ping for half of this is gone (RFC 6455 §5.5.2)
CLOSE_S = 2.0
STRANGERS = 32  # connections that have not said hello yet; who comes then takes the place of the oldest one
LEAVING = 256  # connections beyond those of calls, the ones included that are being closed
MAX_BODY_BYTES = 2048


class PageServer:
    """`start()` listens; `stop()` closes what is left."""

    def __init__(self, settings: Settings, gateway: BrowserGateway, config: ConfigCopy) -> None:
        self._settings = settings
        self._gateway = gateway
        self._config = config
        self._runner: web.AppRunner | None = None
        self._strangers: dict[Connection, None] = {}  # the oldest first
        self._guests = 0  # they have shown a token
        self._connections: set[Connection] = set()
        self.port = settings.browser_listen_port
        self.counters: Counter[str] = Counter()
        html = (PAGE / "index.html").read_text("utf-8")
        self._files = {
            "/": (html, "text/html"),
            "/page.js": ((PAGE / "page.js").read_text("utf-8"), "text/javascript"),
        }
        style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
        self._headers = _headers(style.group(1) if style else "")

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken.
        """
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes([web.get(path, self._file) for path in self._files])
        app.add_routes(
            [
                web.post("/token", self._own_token),
                web.get("/call", self._socket_for("call")),
                web.get("/operator", self._socket_for("take_over")),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.browser_listen_host, self.port).start()
        self.port = self._runner.addresses[0][1]
        host = self._settings.browser_listen_host
        shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "::1") else host
        self._gateway.url = self._settings.browser_public_url or f"http://{shown}:{self.port}"

    async def stop(self) -> None:
        """Close the pages that are still there, then the listener."""
        await asyncio.gather(*(one.close(1001, "the gateway goes down") for one in tuple(self._connections)))
        if self._runner is not None:
            await self._runner.cleanup()

    # -- the page ------------------------------------------------------------------------------------------

    async def _file(self, request: web.Request) -> web.Response:
        text, content_type = self._files[request.path]
        return web.Response(text=text, content_type=content_type, charset="utf-8", headers=self._headers)

    async def _own_token(self, request: web.Request) -> web.Response:
        """For the page on this machine, which stands in for a sound card. Others ask the console or the CLI."""
        if not self._is_own_page(request):
            self.counters["token_refused"] += 1
            return web.json_response({"error": "this page mints tokens on its own machine only"}, status=403)
        try:
            body = await request.json()
            to = body["to"]
            route = self._config.route(to)
            token, _ = self._gateway.tokens.mint_call(route.org if route else DEFAULT_ORG, to, time.time())
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # JSON of any shape and encoding
            return web.json_response({"error": "'to' names whom to call"}, status=400)
        return web.json_response({"token": token}, headers=self._headers)

    def _is_own_page(self, request: web.Request) -> bool:
        """A loopback peer alone proves little: a proxy here forwards for others, a foreign name may resolve to here.

        Not every proxy says that it is one: with `BROWSER_PUBLIC_URL` set, whoever comes may come through it.
        """
        forwarded = any(name.lower().startswith(("forwarded", "x-forwarded", "x-real-ip")) for name in request.headers)
        name = urlsplit(f"//{request.host}").hostname or ""
        origin = request.headers.get("Origin", "")
        return (
            self._settings.browser_public_url is None
            and not forwarded
            and _is_loopback(request.remote or "")
            and (name == "localhost" or _is_loopback(name))
            and origin == f"http://{request.host}"
        )

    # -- the sockets ---------------------------------------------------------------------------------------

    def _may_connect(self, request: web.Request) -> bool:
        """Only browsers send an Origin; a page elsewhere must not use what a person has open here."""
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        own = {self._settings.browser_public_url, *self._settings.browser_allowed_origins}
        own |= {f"http://{host}:{self.port}" for host in ("localhost", "127.0.0.1", "[::1]")}
        own.add(f"http://{self._settings.browser_listen_host}:{self.port}")
        return origin.lower() in own

    def _socket_for(self, kind: Literal["call", "take_over"]):  # type: ignore[no-untyped-def]  # aiohttp's Handler
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._serve(request, kind)

        return handle

    async def _serve(self, request: web.Request, kind: Literal["call", "take_over"]) -> web.StreamResponse:
        if not self._may_connect(request):
            self.counters["origin_refused"] += 1
            return web.Response(status=403, text="origin")
        # a full gateway still hears a few more out: a call that it refuses leaves its record, as at every entrance
        most = self._settings.browser_max_calls
        if self._guests >= most + STRANGERS or len(self._connections) >= most + LEAVING:
            self.counters["no_room"] += 1
            return web.Response(status=503, headers={"Retry-After": "5"})
        if len(self._strangers) >= STRANGERS:  # a page says hello at once: whoever is silent need not keep it out
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            self.counters["strangers_cut"] += 1
            oldest.cut()
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, timeout=CLOSE_S, max_msg_size=MAX_BINARY_BYTES, compress=False
        )
        await socket.prepare(request)
        transport = request.transport
        connection = Connection(socket, lambda: None if transport is None else transport.abort())
        self._connections.add(connection)
        try:
            grant = await self._introduced(connection, kind)
            if grant is not None:
                await self._welcome(connection, kind, grant)
        except Exception:  # the top of a page's task: its defect costs no other page anything
            self.counters["defects"] += 1
            log.exception("a page's connection failed")
            await connection.close(1011, "a defect in the gateway")
        finally:
            self._connections.discard(connection)
        return socket

    async def _welcome(self, connection: Connection, kind: Literal["call", "take_over"], grant: Grant) -> None:
        self._guests += 1
        try:
            if kind == "call":
                await self._gateway.serve_call(connection, grant)
            else:
                await self._gateway.serve_take_over(connection, grant)
        finally:
            self._guests -= 1

    async def _introduced(self, connection: Connection, kind: Literal["call", "take_over"]) -> Grant | None:
        """Wait for hello and its token; None when there is none that counts, and the page was told so."""
        self._strangers[connection] = None
        try:
            async with asyncio.timeout(HELLO_S):
                hello = await connection.receive()
        except TimeoutError:
            self.counters["no_hello"] += 1
            await connection.close(NO_HELLO, "no hello")
            return None
        finally:
            self._strangers.pop(connection, None)
        if hello is None:  # it left
            return None
        try:
            if not isinstance(hello, Hello):
                raise TokenRefused("not_accepted")
            return self._gateway.tokens.redeem(hello.token, kind, time.time())
        except TokenRefused as refused:
            log.warning("a page was not let in", reason=refused.reason)
            await connection.close(NOT_ACCEPTED, refused.reason)
            return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _headers(style: str) -> dict[str, str]:
    """Nothing from elsewhere, nothing inline but the one style sheet (CSP level 3), no frame around the page."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'sha256-{digest}'; connect-src 'self'; "
        "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Permissions-Policy": "microphone=(self), speaker-selection=(self), camera=(), geolocation=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
