"""What Twilio reaches over HTTP: signed webhooks, the media stream's WebSocket, fallback messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from aiohttp import web
from twilio.request_validator import RequestValidator

from services.twilio_gateway import twiml
from services.twilio_gateway.gateway import Form, TwilioGateway
from services.twilio_gateway.settings import Settings

SIGNATURE = "X-Twilio-Signature"
CLOSE_S = 2.0  # at the end; calls have ended before
MAX_FORM_BYTES = 64 * 1024
MAX_WEBSOCKET_BYTES = 1024 * 1024  # beyond the stream's own limit, which closes with a reason
Webhook = Callable[[web.Request, Form], Awaitable[str]]


class WebServer:
    """Every request must bear Twilio's signature over `PUBLIC_URL` and its path: whatever a proxy made of the Host
    header counts for nothing. Whoever has none gets 403 and not a word."""

    def __init__(self, settings: Settings, gateway: TwilioGateway) -> None:
        self._settings = settings
        self._gateway = gateway
        token = settings.twilio_auth_token
        self._validator = RequestValidator(token.get_secret_value()) if token else None
        self._prefix = urlsplit(settings.public_url).path
        self._runner: web.AppRunner | None = None
        self.port = settings.twilio_listen_port
        self.counters: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken.
        """
        app = web.Application(client_max_size=MAX_FORM_BYTES)
        for prefix in dict.fromkeys(("", self._prefix)):  # a proxy may take the prefix off, or leave it on
            app.add_routes(self._routes(prefix))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.twilio_listen_host, self._settings.twilio_listen_port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _routes(self, prefix: str) -> list[web.RouteDef]:
        return [
            web.post(f"{prefix}/voice", self._signed(self._voice)),
            web.post(f"{prefix}/status", self._signed(self._number_status)),
            web.post(f"{prefix}/calls/{{call}}/after", self._signed(self._after)),
            web.post(f"{prefix}/calls/{{call}}/status", self._signed(self._status)),
            web.post(f"{prefix}/calls/{{call}}/target", self._signed(self._target)),
            web.post(f"{prefix}/calls/{{call}}/transfer", self._signed(self._transfer)),
            web.post(f"{prefix}/calls/{{call}}/announcement", self._signed(self._announcement)),
            web.get(f"{prefix}/messages/{{token}}.wav", self._message),
            web.get(f"{prefix}/media", self._media),
        ]

    def _is_signed(self, request: web.Request, base_url: str, form: Mapping[str, object]) -> bool:
        if self._validator is None:
            return True
        path = request.rel_url.raw_path_qs  # as it was sent: the signature knows nothing of decoding
        if self._prefix and path.startswith(f"{self._prefix}/"):
            path = path[len(self._prefix) :]
        url, given = f"{base_url}{path}", request.headers.get(SIGNATURE, "")
        valid = bool(given) and bool(self._validator.validate(url, form, given))
        if not valid:
            self.counters["unsigned"] += 1
        return valid

    def _signed(self, webhook: Webhook) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            form = await _form_of(request)
            if form is None:
                self.counters["unreadable"] += 1
                return web.Response(status=403)
            if not self._is_signed(request, self._settings.public_url, form):
                return web.Response(status=403)
            self.counters["webhooks"] += 1
            texts = {name: value for name, value in form.items() if isinstance(value, str)}
            return web.Response(text=await webhook(request, texts), content_type=twiml.CONTENT_TYPE)

        return handle

    async def _voice(self, _: web.Request, form: Form) -> str:
        return await self._gateway.voice(form)

    async def _number_status(self, _: web.Request, form: Form) -> str:
        self._gateway.number_status(form)
        return twiml.nothing()

    async def _after(self, request: web.Request, _: Form) -> str:
        return self._gateway.after(request.match_info["call"])

    async def _status(self, request: web.Request, form: Form) -> str:
        self._gateway.status(request.match_info["call"], form)
        return twiml.nothing()

    async def _target(self, request: web.Request, form: Form) -> str:
        self._gateway.transfers.target(request.match_info["call"], form, request.query.get("transfer", ""))
        return twiml.nothing()

    async def _transfer(self, request: web.Request, form: Form) -> str:
        return self._gateway.transfers.transferred(request.match_info["call"], form, request.query.get("transfer", ""))

    async def _announcement(self, request: web.Request, _: Form) -> str:
        return self._gateway.transfers.announcement(request.match_info["call"])

    async def _message(self, request: web.Request) -> web.Response:
        """No signature: the name is secret, new for each caller, and known for half a minute."""
        sound = self._gateway.farewells.message(request.match_info["token"])
        return web.Response(status=404) if sound is None else web.Response(body=sound, content_type="audio/wav")

    async def _media(self, request: web.Request) -> web.StreamResponse:
        """Twilio signs the handshake, too, with the URL as it stands in the TwiML: wss, without form."""
        if not self._is_signed(request, self._settings.stream_url, {}):
            return web.Response(status=403)
        socket = web.WebSocketResponse(max_msg_size=MAX_WEBSOCKET_BYTES, compress=False)
        if not socket.can_prepare(request).ok:
            return web.Response(status=400)
        await socket.prepare(request)
        self.counters["streams"] += 1
        transport = request.transport
        await self._gateway.streams.serve(socket, lambda: None if transport is None else transport.abort())
        return socket


async def _form_of(request: web.Request) -> Mapping[str, object] | None:
    """The form as Twilio sends it, with several values of one name; None when it is none, or cannot be decoded."""
    if request.content_type != "application/x-www-form-urlencoded":  # a file of `multipart/form-data` cannot be signed
        return None
    try:
        return await request.post()
    except (ValueError, LookupError):  # not UTF-8; an encoding that does not exist
        return None
