"""The application between pages and call legs: runs a page's call, or its take-over, from hello to the end."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from typing import Any

from nats.aio.msg import Msg
from pydantic import ValidationError

from libs.call_leg.admission import Admitted, Arrival, Refused
from libs.call_leg.admission_shell import Admission
from libs.call_leg.audio import CallAudio
from libs.call_leg.gateway import CallLegs
from libs.call_leg.last_words import LastWords
from libs.call_leg.ports import NewCall
from libs.contracts import subjects
from libs.contracts.agent import DEFAULT_ORG
from libs.contracts.config import Fallback
from libs.contracts.ids import is_token, new_call_id, new_process_id
from libs.contracts.offer import CallState
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger
from libs.runtime.respond import respond
from services.browser_gateway.announcement import Announcement
from services.browser_gateway.call import BrowserCall
from services.browser_gateway.connection import LEFT, REFUSED, Connection
from services.browser_gateway.messages import Answered, Ended, HangUpPressed, NotDone, Ringing
from services.browser_gateway.page_stream import RATE_HZ
from services.browser_gateway.settings import Settings
from services.browser_gateway.takeover import TakenCall, TakeOverRefused
from services.browser_gateway.ticker import Ticker
from services.browser_gateway.tokens import Grant, Tokens
from services.browser_gateway.transcript import TranscriptFeed

log = get_logger()

SERVICE = "browser_gateway"
STATE = CallState(codec="L16", rate_hz=RATE_HZ)
MAX_SPEAKING = 16  # pages that leave a message, at a time: they hold connections that calls may need


class BrowserGateway:
    """`serve_call` and `serve_take_over` are awaited by the WebSocket that they belong to."""

    def __init__(self, settings: Settings, bus: Bus, legs: CallLegs, config: ConfigCopy) -> None:
        self._bus = bus
        self._legs = legs
        self.admission = Admission(bus, legs, config)
        self._most = settings.browser_max_calls
        secret = settings.browser_token_secret
        key = secret.get_secret_value().encode() if secret else secrets.token_bytes(32)
        self.tokens = Tokens(key, legs.gw, ttl_s=settings.browser_token_ttl_s, new_id=lambda: secrets.token_hex(12))
        self.ticker = Ticker(legs.roster.ticked)
        self.last_words = LastWords(bus, legs.gw, MAX_SPEAKING)
        self.taken: set[TakenCall] = set()
        self.url = ""  # where browsers reach the page; set when it listens
        self.counters: Counter[str] = Counter()
        self.media: Counter[str] = Counter()
        """Media statistics of all calls that ended."""

    async def listen(self) -> None:
        """Answer requests for tokens on the bus."""
        await self._bus.control.subscribe(subjects.rpc(SERVICE, "token"), SERVICE, cb=self._on_token_wanted)

    def has_room(self) -> bool:
        """Whether one more page may be served."""
        return self._legs.refusal() is None and len(self._legs) + len(self.taken) < self._most

    # -- tokens --------------------------------------------------------------------------------------------

    async def _on_token_wanted(self, msg: Msg) -> None:
        """`token`: `{"kind": "call", "to": …, "caller"?}` or `{"kind": "take_over", "call": …}`.

        `data` is `{"token", "kind", "expires_in_s", "url"}`; `url` opens the page with the token in its fragment,
        which no server and no log of one gets to see.
        """
        try:
            reply = self._minted(RpcRequest.model_validate_json(msg.data))
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            reply = RpcReply(ok=False, error=f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}")
        await respond(self._bus, msg, reply)

    def _minted(self, request: RpcRequest) -> RpcReply:
        org, wanted, now = request.org or DEFAULT_ORG, request.parameters, time.time()
        kind = wanted.get("kind")
        if kind == "call" and isinstance(to := wanted.get("to"), str) and to:
            token, grant = self.tokens.mint_call(org, to, now, caller=str(wanted.get("caller") or "browser"))
        elif kind == "take_over" and isinstance(call := wanted.get("call"), str) and is_token(call):
            token, grant = self.tokens.mint_take_over(org, call, now)
        else:
            return RpcReply(ok=False, error="kind is 'call' with 'to', or 'take_over' with 'call'")
        url = f"{self.url}/#{grant.kind}={token}"
        left_s = round(grant.expires_at - now, 3)
        return RpcReply(ok=True, data={"token": token, "kind": grant.kind, "expires_in_s": left_s, "url": url})

    # -- a test call ---------------------------------------------------------------------------------------

    async def serve_call(self, connection: Connection, grant: Grant) -> None:
        """Run the call that a token allows, to its end."""
        arrival = Arrival(new_call_id(), "browser", grant.caller, grant.to)
        admitted = await self._admitted(arrival, grant.org)
        if isinstance(admitted, Refused):
            await self._refuse(connection, arrival, admitted)
            return
        try:
            await self._serve(connection, admitted)
        finally:
            self.admission.release(admitted.org, admitted.call)

    async def _admitted(self, arrival: Arrival, org: str) -> Admitted | Refused:
        decided = self.admission.decide(arrival)
        if decided.org != org:  # another organisation's number: for this caller it does not exist
            why = Termination.of(Reason.NO_ROUTE, f"no route serves {arrival.callee}")
            return Refused(arrival.call, org, decided.caller, decided.callee, why)
        return decided if isinstance(decided, Refused) else await self.admission.secure(decided)

    async def _refuse(self, connection: Connection, arrival: Arrival, refused: Refused) -> None:
        """The route's message where there is one, then the end; every attempt leaves a record."""
        why = refused.termination
        self.counters[f"refused_{why.reason}"] += 1
        log.warning("call refused", callee=refused.callee, reason=why.reason, detail=why.detail)
        self.admission.record(arrival, refused)
        audio = CallAudio(refused.org, self._legs.gw, refused.call, self._bus.send_frame, rate_hz=RATE_HZ)

        def heard(frames: list[bytes]) -> None:
            for pcm in frames:
                audio.received(pcm, asyncio.get_running_loop().time())

        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(connection.write()), tasks.create_task(connection.read_on(heard))]
            if refused.fallback is not None and refused.fallback.has_message:
                connection.send(Answered(call=refused.call))
                await self._announce(connection, refused.fallback, audio, 0, beside[1])
            connection.send(Ended(termination=why))
            await connection.finish(REFUSED, why.reason)
            for task in beside:
                task.cancel()

    async def _serve(self, connection: Connection, admitted: Admitted) -> None:
        route = admitted.route
        new = NewCall(call=admitted.call, org=admitted.org, entrance="browser", direction="inbound",
                      caller=admitted.caller, callee=admitted.callee, agent=admitted.agent, route=route.name,
                      fallback=route.fallback, state=STATE, needs_person=route.answer == "manual",
                      person_timeout_s=route.person_timeout_s,
                      answer_delay_s=route.answer_delay_ms / 1000)  # fmt: skip
        feed = TranscriptFeed(self._bus, connection, new.org, new.call)
        await feed.start()  # before there is a leg, which would outlive a failure here
        call = BrowserCall(connection, new.org, self._legs.gw, new.call, self._bus.send_frame)
        shell = call.shell = self._legs.open(new, call)
        self.counters["calls"] += 1
        log.info("call offered", call=new.call, caller=new.caller, callee=new.callee, agent=new.agent.name)
        connection.send(Ringing(call=new.call))
        self.ticker.add(call)
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(connection.write())
                reading = tasks.create_task(self._listen_to_page(connection, call))
                await self._legs.serve(shell)
                termination = shell.leg.termination
                if call.parting is not None and not reading.done():
                    self.ticker.remove(call)
                    connection.send(Answered(call=new.call))
                    await self._announce(connection, call.parting, call.audio, call.playout.sent, reading)
                    termination = Termination.of(Reason.FALLBACK_PLAYED)
                connection.send(Ended(termination=termination))
                await connection.finish(1000, termination.reason if termination else "ended")
                reading.cancel()
                writing.cancel()
        finally:
            self.ticker.remove(call)
            await feed.stop()
            self.media.update(call.counted())

    async def _announce(
        self, connection: Connection, fallback: Fallback, audio: CallAudio, position: int, reading: asyncio.Task[None]
    ) -> None:
        """The route's message, and what the page says to it; until it leaves, when `reading` it ends."""
        gone = asyncio.Event()
        reading.add_done_callback(lambda _: gone.set())
        announcement = Announcement(connection, audio, position, gone)
        self.ticker.add(announcement)
        try:
            await self.last_words.say(fallback, audio, gone)
        finally:
            self.ticker.remove(announcement)

    async def _listen_to_page(self, connection: Connection, call: BrowserCall) -> None:
        shell = call.shell
        assert shell is not None
        try:
            while (received := await connection.receive()) is not None:
                if isinstance(received, list):
                    call.heard(received)
                elif isinstance(received, HangUpPressed):
                    break
                else:
                    call.told(received)
        except Exception:  # what a page sends must not tear the call's tasks down: the call ends in order
            self.counters["defects"] += 1
            log.exception("a page's message could not be handled", call=shell.new.call)
            shell.end(Termination.of(Reason.INTERNAL_ERROR, "a defect in the gateway; see its log"))
            return
        ringing = shell.leg.answered_at is None
        if connection.close_code is None or connection.close_code in LEFT:
            shell.caller_gone(Reason.CALLER_CANCELLED if ringing else Reason.CALLER_HUNG_UP)
        else:  # no pong, a reset, or nonsense: the person did not hang up
            shell.caller_gone(Reason.RTP_TIMEOUT, f"the connection to the page was lost ({connection.close_code})")

    # -- a take-over ---------------------------------------------------------------------------------------

    async def serve_take_over(self, connection: Connection, grant: Grant) -> None:
        """Let the person at this page speak in place of the agent, until the call is over or in other hands."""
        if not self.has_room():
            connection.send(Ended(termination=None, detail="this gateway has no room for another call"))
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(connection.write())
                await connection.finish(REFUSED, Reason.AT_CAPACITY)
                writing.cancel()
            return
        taken = TakenCall(self._bus, connection, grant.org, grant.call, new_process_id("op"), self._is_sound)
        self.taken.add(taken)
        feed = TranscriptFeed(self._bus, connection, grant.org, grant.call)
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(connection.write()), tasks.create_task(taken.beat())]
                end, code = await self._take_over(connection, taken, feed, tasks)
                connection.send(end)
                await connection.finish(code, end.termination.reason if end.termination else end.detail)
                for task in beside:
                    task.cancel()
        finally:
            self.ticker.remove(taken)
            self.taken.discard(taken)
            await taken.close()
            await feed.stop()

    def _is_sound(self) -> bool:
        return self._legs.roster.is_sound(asyncio.get_running_loop().time())

    async def _take_over(
        self, connection: Connection, taken: TakenCall, feed: TranscriptFeed, tasks: asyncio.TaskGroup
    ) -> tuple[Ended, int]:
        try:
            await taken.take()
        except TakeOverRefused as refused:
            self.counters["take_over_refused"] += 1
            connection.send(NotDone(what="take_over", error=str(refused)))
            return Ended(termination=None, detail=str(refused)), REFUSED
        self.counters["taken_over"] += 1
        taken.answered()
        await feed.start()
        self.ticker.add(taken)
        reading = tasks.create_task(self._listen_to_operator(connection, taken))
        obeying = tasks.create_task(taken.obey())
        either: list[asyncio.Future[Any]] = [reading, taken.ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        obeying.cancel()
        if not taken.ended.done():  # the page is gone: the caller must not sit in silence
            await taken.give_back()
        reading.cancel()
        if taken.ended.done():
            return taken.ended.result(), 1000
        return Ended(termination=None, detail="given back"), 1000

    async def _listen_to_operator(self, connection: Connection, taken: TakenCall) -> None:
        while (received := await connection.receive()) is not None:
            if isinstance(received, list):
                taken.heard(received)
            else:
                taken.told(received)

    async def give_everything_back(self) -> None:
        """Drain: every call that a person holds here goes to an agent; its page hears of it by the release."""
        await asyncio.gather(*(taken.give_back() for taken in tuple(self.taken)))
