"""`callbus call`: place a call, follow it live, hang it up on Ctrl-C; what does not run is started for it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nats.errors
from nats.aio.client import Client
from nats.js.errors import BucketNotFoundError, KeyNotFoundError
from pydantic import ValidationError
from rich.console import Console
from ulid import ULID

from cli import up
from cli.bus import bus_address, connected, explained, keys_of
from cli.commands import send
from cli.errors import CliError, NotRunning
from cli.exit_codes import CODE_OF, ExitCode
from cli.render import EventLines
from cli.settings import CliSettings
from cli.state import running
from cli.tap import lasting_events
from cli.trunks import wait_for_trunk
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import HangUp
from libs.contracts.events import CallAnswered, CallEnded
from libs.contracts.heartbeat import CallEntry
from libs.contracts.originate import AgentChanges, Originate, OriginateReply
from libs.contracts.termination import Reason, Termination
from libs.contracts.wire import config_decoder, event_decoder

ORIGINATE_TIMEOUT_S = 15.0
ENDED_AFTER_HANG_UP_S = 10.0  # a CANCEL or BYE and its repetitions, then we leave without having seen the end
NUMBER = re.compile(r"\+?[0-9*#(][0-9*# ()/.-]*")
SIP_URI = re.compile(r"sips?:[^\s@]+@[^\s@]+|tel:\+?[0-9().-]+")


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What `callbus call` was told, checked."""

    to: str
    agent: str
    changes: AgentChanges
    org: str = "default"
    entrance: Literal["sip", "twilio"] = "sip"
    trunk: str | None = None
    caller: str | None = None
    ring_timeout_s: float = 60
    reg_timeout_s: float = 20
    as_json: bool = False

    def __post_init__(self) -> None:
        for what, number in (("NUMBER", self.to), ("--from", self.caller)):
            if number is not None and not is_dialable(number):
                raise CliError(
                    f"{what} {number!r} is no phone number: write it as +49 30 123456, as 030 123456, or as a SIP "
                    "address (sip:user@host)",
                    ExitCode.NUMBER_INVALID,
                )


def is_dialable(text: str) -> bool:
    """Whether this may be a phone number or SIP URI at all; the gateway, which knows the country, decides."""
    return bool(NUMBER.fullmatch(text.strip()) or SIP_URI.fullmatch(text.strip()))


def message_text(given: str | None) -> str | None:
    """The system message: the text itself, or with `@` in front the content of that file.

    Raises:
        CliError: the file cannot be read, or there is no text.
    """
    if given is None:
        return None
    text = given
    if given.startswith("@"):
        path = Path(given[1:]).expanduser()
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise CliError(f"--system-message: {path} cannot be read: {why}") from error
    if not text.strip():
        raise CliError("--system-message is empty: leave it out to keep the agent's own")
    return text


@contextlib.contextmanager
def callbus_running(
    settings: CliSettings, nats_url: str | None, said: Console, *, keep_running: bool = False
) -> Iterator[str]:
    """The address of the bus. Where nothing runs, everything is started, and ended afterwards unless it is to be kept.

    Raises:
        CliError: it could not be started.
    """
    try:
        address = bus_address(nats_url, settings)
    except NotRunning:
        pass
    else:
        yield address
        return
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in signals]  # Ctrl-C's way out
    started = None
    try:
        said.print("callbus is not running here: starting it …", style="dim")
        options = up.UpOptions(2, settings.sip_listen_port, settings.sip_listen_host, rehearsal=None)
        up.make_plan(settings, options)  # what is in the way is said here, not in a log
        arguments = ["--sip-port", str(options.sip_port), "--sip-host", options.sip_host]
        started = up.detach(settings, arguments, Console(quiet=True))
        for note in up.notes(settings, options):
            said.print(f"  • {note}", style="dim", soft_wrap=True)
        yield bus_address(nats_url, settings)
    finally:
        for number in signals:  # what was started is ended in order, even where the terminal has gone
            signal.signal(number, signal.SIG_IGN)
        state = running(settings.state_file)
        ours = started is not None and state is not None and state.supervisor == started
        with contextlib.suppress(OSError):
            if ours and keep_running:
                said.print("callbus keeps running (--keep-running): end it with `callbus down`", style="dim")
            elif ours:
                said.print("ending what was started for this call …", style="dim")
        if ours and not keep_running:
            up.down(settings, Console(quiet=True))
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


async def place(
    console: Console, said: Console, address: str, options: CallOptions, there: Callable[[], bool] = lambda: True
) -> ExitCode:
    """Place the call and follow it to its end; `said` is for what is not the transcript, `there` is asked whether a bus
    that went away is worth waiting for.

    Raises:
        CliError: it could not be placed; its `code` tells why.
    """
    async with connected(address) as client:
        await check_agent(client, options)
        if options.entrance == "sip":
            await wait_for_trunk(client, options.org, options.trunk, options.reg_timeout_s, said)
        line = _Line(client, address, console, said, options, there)
        return await line.run()


async def check_agent(client: Client, options: CallOptions) -> None:
    """The agent exists, and is valid with the changes of this call.

    Raises:
        CliError: it is not there, or a change does not fit it.
    """
    try:
        store = await client.jetstream().key_value(subjects.KV_CONFIG)
    except BucketNotFoundError:
        raise CliError("nothing is published on this bus: `callbus apply deploy/config`", ExitCode.NO_AGENT) from None
    try:
        value = (await store.get(f"agent.{options.org}.{options.agent}")).value or b""
    except KeyNotFoundError:
        head = f"agent.{options.org}."
        keys = await keys_of(client, subjects.KV_CONFIG)
        names = [key.removeprefix(head) for key in keys if key.startswith(head)]
        there = f"there are {', '.join(names)}" if names else "none is published: `callbus apply deploy/config`"
        raise CliError(f"there is no agent named {options.agent!r}: {there}", ExitCode.NO_AGENT) from None
    agent = config_decoder().decode(value)
    if not isinstance(agent, AgentConfig):
        raise CliError(
            f"the document of agent {options.agent!r} cannot be read: `callbus apply` it again", ExitCode.NO_AGENT
        )
    try:
        options.changes.applied_to(agent)
    except ValueError as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CliError(f"agent {options.agent!r} cannot be changed so: {why}") from error


async def originate(client: Client, options: CallOptions) -> OriginateReply:
    """Ask a gateway to place the call; its reply, which is ok.

    Raises:
        CliError: no gateway takes it, or it said no.
    """
    wish = Originate(
        to=options.to.strip(),
        agent=options.agent,
        trunk=options.trunk,
        caller=options.caller,
        changes=options.changes,
        ring_timeout_s=options.ring_timeout_s,
        request_id=str(ULID()),
    )
    subject = subjects.originate(options.org, options.entrance)
    try:
        message = await client.request(subject, wish.to_json(), timeout=ORIGINATE_TIMEOUT_S)
        reply = OriginateReply.model_validate_json(message.data)
    except nats.errors.NoRespondersError:
        raise CliError(
            f"no {options.entrance} gateway places calls on this bus: `callbus doctor` tells what runs",
            ExitCode.TRUNK_FAILED,
        ) from None
    except nats.errors.TimeoutError:
        raise CliError(
            f"no gateway answered within {ORIGINATE_TIMEOUT_S:g} s: `callbus calls` tells whether the call goes on",
            ExitCode.TRUNK_FAILED,
        ) from None
    except ValidationError as error:
        raise CliError(f"the gateway's answer cannot be read: {error.errors()[0]['msg']}") from error
    if not reply.ok:
        code = CODE_OF[reply.reason] if reply.reason is not None else ExitCode.ERROR
        raise CliError(f"the call was not placed: {reply.error}", code)
    return reply


class _Line:
    """One call of ours from the request to its end. Ctrl-C hangs up, the second one leaves at once."""

    def __init__(
        self,
        client: Client,
        address: str,
        console: Console,
        said: Console,
        options: CallOptions,
        there: Callable[[], bool],
    ) -> None:
        self._client, self._address, self._options = client, address, options
        self._console, self._said, self._there = console, said, there
        self._leave = asyncio.Event()
        self._hang_up = asyncio.Event()
        self._call = ""
        self._gw = ""
        self._is_answered = False

    def interrupted(self) -> None:
        """Ctrl-C, or SIGTERM."""
        if self._hang_up.is_set():
            self._leave.set()
        self._hang_up.set()

    async def run(self) -> ExitCode:
        """The call's exit code."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self.interrupted)
        call, leave = asyncio.create_task(self._whole_call()), asyncio.create_task(self._leave.wait())
        try:
            await asyncio.wait([call, leave], return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return call.result()
            hint = f": `callbus hangup {self._call}` ends it" if self._call else ""
            self._tell(f"left; the call may go on{hint}", "yellow")
            return ExitCode.INTERRUPTED
        finally:
            for task in (call, leave):
                task.cancel()
            await asyncio.gather(call, leave, return_exceptions=True)
            for number in signals:
                loop.remove_signal_handler(number)

    async def _whole_call(self) -> ExitCode:
        reply = await originate(self._client, self._options)
        self._call, self._gw = reply.call, reply.gw
        following, hanging_up = asyncio.create_task(self._follow()), asyncio.create_task(self._hang_up_when_asked())
        try:
            await asyncio.wait([following, hanging_up], return_when=asyncio.FIRST_COMPLETED)
            if (
                following.done() and following.exception() is not None
            ):  # nobody watches any more: `| head`, a closed tty
                await self._send_hang_up()
            if not following.done():  # hung up: the end is on its way
                await asyncio.wait([following], timeout=ENDED_AFTER_HANG_UP_S)
            if not following.done():
                self._tell("hung up, but the call's end was not seen", "yellow")
                return ExitCode.INTERRUPTED
            return CODE_OF[following.result().reason]
        finally:
            for task in (following, hanging_up):
                task.cancel()
            await asyncio.gather(following, hanging_up, return_exceptions=True)

    async def _hang_up_when_asked(self) -> None:
        await self._hang_up.wait()
        self._tell("hanging up … (Ctrl-C again leaves at once)", "dim")
        await self._send_hang_up()

    async def _send_hang_up(self) -> None:
        entry = CallEntry(
            call=self._call, org=self._options.org, gw=self._gw, wk=None, epoch=0, phase="", agent=self._options.agent
        )
        try:
            async with connected(
                self._address
            ) as client:  # the first connection may have gone with a bus that restarted
                await send(client, entry, self._farewell())
        except (CliError, nats.errors.Error) as error:  # it ended by itself just now, or nobody is left to end it
            text = explained(error) if isinstance(error, nats.errors.Error) else str(error)
            self._tell(f"not hung up: {text}", "yellow")

    def _farewell(self) -> HangUp:
        if self._is_answered:
            return HangUp()
        return HangUp(reason=Reason.CALLER_CANCELLED, detail="given up before the answer")

    def _tell(self, text: str, style: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone; the call is hung up all the same
            self._said.print(text, style=style, markup=False, soft_wrap=True)

    async def _follow(self) -> Termination:
        decoder, lines = event_decoder(), EventLines()
        async for message in lasting_events(self._address, self._call, self._gone, self._there):
            event = decoder.decode(message.data)
            if self._options.as_json:
                sys.stdout.write(message.data.decode("utf-8", "replace") + "\n")
                sys.stdout.flush()
            elif event is not None and (line := lines.line(event)) is not None:
                self._console.print(line, soft_wrap=True)
            self._is_answered = self._is_answered or isinstance(event, CallAnswered)
            if isinstance(event, CallEnded):
                return event.termination
        raise CliError("the call's events ended before the call did")  # never: `lasting_events` is endless

    def _gone(self) -> None:
        self._tell("the bus went away; waiting for it …", "dim")


def changes_of(  # noqa: PLR0913  one parameter per option
    *,
    backend: str | None,
    model: str | None,
    voice: str | None,
    prompt: str | None,
    silence_ms: int | None,
    threshold: float | None,
    prefix_padding_ms: int | None,
    recording: bool,
) -> AgentChanges:
    """What the options change of the agent.

    Raises:
        CliError: it cannot be had yet, or is not valid.
    """
    wanted: dict[str, Any] = {
        "backend": backend,
        "model": model,
        "voice": voice,
        "prompt": prompt,
        "silence_ms": silence_ms,
        "threshold": threshold,
        "prefix_padding_ms": prefix_padding_ms,
        "recording": "on" if recording else None,
    }
    try:
        return AgentChanges.model_validate(wanted)
    except ValidationError as error:
        first = error.errors()[0]
        raise CliError(f"{first['loc'][0]}: {first['msg']}", ExitCode.USAGE) from error
