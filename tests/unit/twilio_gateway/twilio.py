"""Twilio, as far as this gateway meets it: signed webhooks, TwiML, a media stream with a player, the REST API.

Written from Twilio's documentation: "TwiML Voice", "Media Streams - WebSocket Messages", "Call resource".
"""

from __future__ import annotations

import asyncio
import base64
import json
import xml.etree.ElementTree as ET
from contextlib import suppress
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from twilio.request_validator import RequestValidator

from libs.audio.g711 import Law

ACCOUNT, AUTH_TOKEN = "AC" + "0" * 32, "secret-of-the-tests"
SILENCE = b"\xff" * 160
FRAME_S = 0.02


class FakeTwilio:
    """The provider: places calls to the gateway at `connect_url`, which it believes to be `public_url`."""

    def __init__(self, public_url: str) -> None:
        self.public_url = public_url
        self.connect_url = ""
        self.validator = RequestValidator(AUTH_TOKEN)
        self.session: aiohttp.ClientSession
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.api_requests: list[tuple[str, dict[str, str]]] = []
        self.calls: dict[str, FakeCall] = {}
        self.api_error: tuple[int, int, str] | None = None
        self.on_create = lambda call: call.answer()
        self.answers_after_s = 0.0
        self._runner: web.AppRunner
        self.api_url = ""
        self._numbers = 0

    async def __aenter__(self) -> FakeTwilio:
        self.session = aiohttp.ClientSession()
        app = web.Application()
        app.add_routes(
            [
                web.post(f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json", self._create),
                web.post(f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{{sid}}.json", self._update),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.api_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for call in self.calls.values():
            await call.close()
        await self.session.close()
        await self._runner.cleanup()

    def sid(self) -> str:
        self._numbers += 1
        return f"CA{self._numbers:032x}"

    def incoming(self, to: str = "+49301234567", caller: str = "+491712345678") -> FakeCall:
        """Somebody calls a number of ours."""
        call = FakeCall(self, self.sid(), caller, to)
        self.calls[call.sid] = call
        return call

    def reached(self, url: str) -> str:
        """Where a public URL really is: behind the proxy."""
        public = urlsplit(self.public_url)
        rest = url.split("://", 1)[1]
        assert rest.startswith(public.netloc + public.path), url
        return self.connect_url + rest[len(public.netloc) + len(public.path) :]

    async def post(self, url: str, form: dict[str, str], **headers: str) -> tuple[int, str]:
        """A webhook; the signature is over the URL as it was given to Twilio."""
        self.requests.append((urlsplit(url).path, form))
        signed = {"X-Twilio-Signature": self.validator.compute_signature(url, form)} | headers
        async with self.session.post(self.reached(url), data=form, headers=signed) as response:
            return response.status, await response.text()

    # -- the REST API ----------------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.api_requests.append((request.path, {k: str(v) for k, v in form.items()}))
        if refused := self._refused(request):
            return refused
        call = FakeCall(self, self.sid(), str(form["From"]), str(form["To"]))
        call.twiml, call.status_url = str(form["Twiml"]), str(form["StatusCallback"])
        call.timeout_s = int(str(form["Timeout"]))
        self.calls[call.sid] = call
        call.later(self.on_create(call))
        await asyncio.sleep(self.answers_after_s)
        return web.json_response({"sid": call.sid, "status": "queued"}, status=201)

    async def _update(self, request: web.Request) -> web.Response:
        form = {k: str(v) for k, v in (await request.post()).items()}
        self.api_requests.append((request.path, form))
        if refused := self._refused(request):
            return refused
        call = self.calls[request.match_info["sid"]]
        if call.is_over:
            return web.json_response({"code": 21220, "message": "Call is not in-progress."}, status=400)
        if form.get("Status") == "completed":
            call.later(call.ended_by_us())
        else:
            call.later(call.redirect(form["Twiml"]))
        return web.json_response({"sid": call.sid})

    def _refused(self, request: web.Request) -> web.Response | None:
        expected = base64.b64encode(f"{ACCOUNT}:{AUTH_TOKEN}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            return web.json_response({"code": 20003, "message": "Authenticate"}, status=401)
        if self.api_error is not None:
            status, code, message = self.api_error
            return web.json_response({"code": code, "message": message}, status=status)
        return None


class FakeCall:
    """One call at Twilio. What the other side hears is in `heard`, one entry per 20 ms."""

    def __init__(self, twilio: FakeTwilio, sid: str, caller: str, to: str) -> None:
        self.twilio, self.sid, self.caller, self.to = twilio, sid, caller, to
        self.twiml = self.status_url = ""
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.stream_sid = ""
        self.streams = self.timeout_s = 0
        self.parameters: dict[str, str] = {}
        self.heard: list[bytes] = []
        self.clears = 0
        self.marks: list[str] = []
        self.verbs: list[str] = []
        self.dialled = ""
        self.dial: ET.Element | None = None
        self.is_over = False
        self.comes_back = True  # after a connection that broke off
        self.buffer: list[bytes | str] = []
        self.closed_with: tuple[int | None, str] | None = None
        self.changed = asyncio.Event()
        self._sequence = 0
        self._tasks: set[asyncio.Task] = set()
        self._running: asyncio.Task | None = None

    def later(self, work) -> asyncio.Task:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        self.changed.set()
        if not task.cancelled():
            task.result()

    def form(self, **more: str) -> dict[str, str]:
        return {"CallSid": self.sid, "AccountSid": ACCOUNT, "From": self.caller, "To": self.to,
                "CallStatus": "completed" if self.is_over else "in-progress"} | more  # fmt: skip

    async def until(self, happened, limit_s: float = 5.0) -> None:
        async with asyncio.timeout(limit_s):
            while not happened():  # noqa: ASYNC110  state has no event
                await asyncio.sleep(0.005)

    # -- inbound and outbound ------------------------------------------------------------------------------------

    async def ring(self) -> FakeCall:
        """Ask the gateway's /voice what to do, and begin to do it."""
        status, text = await self.twilio.post(f"{self.twilio.public_url}/voice", self.form(CallStatus="ringing"))
        assert status == 200, status
        self.follow(text)
        return self

    async def status(self, status: str, **more: str) -> None:
        await self.twilio.post(self.status_url, self.form(CallStatus=status, **more))

    async def answer(self) -> None:
        """The callee rings, and picks up."""
        await self.status("ringing")
        await self.status("in-progress")
        self.follow(self.twiml)

    def follow(self, text: str) -> None:
        self._running = self.later(self._follow(text))

    async def _follow(self, text: str) -> None:
        for verb in ET.fromstring(text):
            self.verbs.append(verb.tag)
            match verb.tag:
                case "Connect":
                    stream = verb[0]
                    parameters = {p.get("name"): p.get("value") for p in stream}
                    if await self._stream(stream.get("url"), parameters):
                        return  # the call ended meanwhile
                case "Redirect":
                    _, text = await self.twilio.post(verb.text, self.form())
                    await self._follow(text)
                    return
                case "Dial":
                    self.dial, self.dialled = verb, verb[0].text
                    return
                case "Hangup" | "Reject":
                    self.is_over = True
                    return
        if not len(ET.fromstring(text)) or verb.tag != "Dial":
            self.is_over = True

    async def redirect(self, text: str) -> None:
        """The REST API changed what the call does."""
        if self._running is not None:
            self._running.cancel()
        await self._leave()
        self.follow(text)

    async def target_is(self, status: str) -> None:
        """How the target of `<Dial>` fares."""
        form = {"CallSid": "CAchild", "ParentCallSid": self.sid, "CallStatus": status}
        await self.twilio.post(self.dial[0].get("statusCallback"), form)

    async def dial_ends(self, status: str) -> None:
        _, text = await self.twilio.post(self.dial.get("action"), self.form(DialCallStatus=status))
        self.follow(text)

    # -- the media stream ------------------------------------------------------------------------------------------

    async def open(self, url: str, **headers: str) -> aiohttp.ClientWebSocketResponse:
        signed = {"X-Twilio-Signature": self.twilio.validator.compute_signature(url, {})} | headers
        return await self.twilio.session.ws_connect(self.twilio.reached(url), headers=signed)

    async def _stream(self, url: str, parameters: dict[str, str]) -> bool:
        self.socket = socket = await self.open(url)
        self.streams += 1
        self.stream_sid, self.parameters, self._sequence = f"MZ{self.streams:032x}", parameters, 0
        await self.send({"event": "connected", "protocol": "Call", "version": "1.0.0"}, numbered=False)
        await self.send({"event": "start", "start": {
            "streamSid": self.stream_sid, "accountSid": ACCOUNT, "callSid": self.sid, "tracks": ["inbound"],
            "customParameters": parameters,
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}}})  # fmt: skip
        player = self.later(self._play())
        try:
            async for message in socket:
                self._take(json.loads(message.data))
        finally:
            player.cancel()
            self.buffer.clear()
        self.closed_with = (socket.close_code, "")
        self.changed.set()
        self.socket = None
        return self.is_over or not self.comes_back

    def _take(self, message: dict) -> None:
        assert message["streamSid"] == self.stream_sid
        match message["event"]:
            case "media":
                self.buffer.append(base64.b64decode(message["media"]["payload"]))
            case "mark":
                self.buffer.append(message["mark"]["name"])
            case "clear":
                self.clears += 1
                for mark in [item for item in self.buffer if isinstance(item, str)]:
                    self.later(self._returned(mark))
                self.buffer.clear()

    async def _returned(self, name: str) -> None:
        self.marks.append(name)
        with suppress(ConnectionError):
            await self.send({"event": "mark", "mark": {"name": name}})

    async def _play(self) -> None:
        """20 ms at a time; marks go back once everything before them was played."""
        due = asyncio.get_running_loop().time()
        while True:
            while self.buffer and isinstance(self.buffer[0], str):
                await self._returned(self.buffer.pop(0))
            self.heard.append(self.buffer.pop(0) if self.buffer else SILENCE)
            due += FRAME_S
            await asyncio.sleep(due - asyncio.get_running_loop().time())

    async def send(self, message: dict, *, numbered: bool = True) -> None:
        if numbered:
            self._sequence += 1
            message = message | {"sequenceNumber": str(self._sequence), "streamSid": self.stream_sid}
        await self.socket.send_str(json.dumps(message))

    async def media(self, ulaw: bytes, **more: str) -> None:
        body = {"track": "inbound", "chunk": "1", "timestamp": "5", "payload": base64.b64encode(ulaw).decode()} | more
        await self.send({"event": "media", "media": body})

    async def says(self, pcm: bytes) -> None:
        """Speak in real time."""
        ulaw = Law.PCMU.encode(pcm)
        due = asyncio.get_running_loop().time()
        for start in range(0, len(ulaw), 160):
            await self.media(ulaw[start : start + 160])
            due += FRAME_S
            await asyncio.sleep(due - asyncio.get_running_loop().time())

    def heard_frames(self) -> list[bytes]:
        return [Law.PCMU.decode(frame) for frame in self.heard]

    def heard_pcm(self) -> bytes:
        return Law.PCMU.decode(b"".join(self.heard))

    async def hang_up(self) -> None:
        """The other side hangs up: `stop`, then the close."""
        self.is_over = True
        await self.send({"event": "stop", "stop": {"accountSid": ACCOUNT, "callSid": self.sid}})
        await self.socket.close()
        if self.status_url:
            await self.status("completed")

    async def break_off(self) -> None:
        """The connection dies without a word."""
        self.socket._response.connection.transport.abort()

    async def ended_by_us(self) -> None:
        self.is_over = True
        await self._leave()
        if self.status_url:
            await self.status("completed")

    async def _leave(self) -> None:
        if self.socket is not None and not self.socket.closed:
            await self.send({"event": "stop", "stop": {"accountSid": ACCOUNT, "callSid": self.sid}})
            await self.socket.close()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.socket is not None:
            await self.socket.close()
