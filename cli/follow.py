"""`callbus tap`: a call as it goes on, for people on a terminal or line by line, or as JSON for programs."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Protocol

from nats.aio.msg import Msg
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cli.bus import bus_address, connected, worth_waiting
from cli.commands import live_or_past
from cli.consoles import PlainConsole
from cli.errors import CliError
from cli.hearing import hearing
from cli.listen import Listener, OnFrame
from cli.render import EventLines
from cli.settings import CliSettings
from cli.tap import ALL, lasting_events, require_known
from cli.tap_state import TapState
from libs.contracts.document import event_classes
from libs.contracts.events import CallEnded, Event
from libs.contracts.live import PARTIAL, PartialTranscript
from libs.contracts.wire import event_decoder, kind_of

errors = PlainConsole(stderr=True)
REFRESHES_PER_S = 8
KINDS = (*(str(cls.model_fields["kind"].default) for cls in event_classes()), PARTIAL)


@dataclass(frozen=True, slots=True)
class TapOptions:
    """How `callbus tap` shows what it follows."""

    wait: bool = False  # for a call that is not known yet
    verbose: bool = False
    as_json: bool = False
    partials: bool | None = None  # None: on a terminal
    kinds: tuple[str, ...] = ()  # patterns; none: all
    wav: Path | None = None
    play: bool = False


class KindFilter:
    """Which kinds are shown: names (`call.ended`), groups (`tool`) and patterns (`caller.*`).

    Raises:
        CliError: a pattern that no kind fits.
    """

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._patterns = [part for pattern in patterns for part in pattern.replace(",", " ").split()]
        for pattern in self._patterns:
            if not any(_fits(kind, pattern) for kind in KINDS):
                raise CliError(f"no kind of event fits {pattern!r}; there are: {', '.join(KINDS)}")

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def __contains__(self, kind: str) -> bool:
        return not self._patterns or any(_fits(kind, pattern) for pattern in self._patterns)


def _fits(kind: str, pattern: str) -> bool:
    return fnmatchcase(kind, pattern) or kind.startswith(f"{pattern}.")


class _Shown(Protocol):
    """Where the call is shown."""

    def event(self, event: Event | None, data: bytes) -> None: ...

    def partial(self, partial: PartialTranscript) -> None: ...


class _JsonLines:
    """One document a line."""

    def __init__(self, kinds: KindFilter) -> None:
        self._kinds = kinds

    def event(self, event: Event | None, data: bytes) -> None:
        kind = event.kind if event is not None else kind_of(data)  # of a newer gateway: programs get it as it is
        if kind in self._kinds:
            self._write(data)

    def partial(self, partial: PartialTranscript) -> None:
        if partial.kind in self._kinds:
            self._write(partial.to_json())

    def _write(self, data: bytes) -> None:
        sys.stdout.write(data.decode("utf-8", "replace") + "\n")
        sys.stdout.flush()


class _Lines:
    """For people; with `state` what stands below on a terminal is kept, too."""

    def __init__(self, console: Console, lines: EventLines, kinds: KindFilter, state: TapState | None) -> None:
        self._console, self._lines, self._kinds, self._state = console, lines, kinds, state

    def event(self, event: Event | None, data: bytes) -> None:
        if event is None:
            return
        if self._state is not None:
            self._state.event(event)
        line = self._lines.line(event)
        if line is not None and event.kind in self._kinds:
            self._console.print(line, soft_wrap=True)

    def partial(self, partial: PartialTranscript) -> None:
        if self._state is not None:
            self._state.partial(partial)
        elif partial.kind in self._kinds and partial.text:
            text = Text(f"{partial.at.astimezone():%H:%M:%S.%f}"[:12] + "  ", style="dim")
            self._console.print(text.append(f"{partial.speaker.title():8}{partial.text} …"), soft_wrap=True)


async def follow(console: Console, settings: CliSettings, nats: str | None, wanted: str, options: TapOptions) -> None:
    """`callbus tap`: ends with the call; never for `all`. A bus that restarts is waited for.

    Raises:
        CliError: there is no such call, nothing can play, a filter fits nothing, or the bus went away for good.
    """
    kinds, decoder = KindFilter(options.kinds), event_decoder()
    if wanted == ALL and (options.wav or options.play or options.partials):
        raise CliError("--wav, --play and --partials follow one call: name it, or say `last`")
    address = bus_address(nats, settings)
    async with connected(address) as client:
        call = wanted if wanted == ALL else await live_or_past(client, wanted)
        if call != ALL and not options.wait:
            await require_known(client, call)
    has_panel = console.is_terminal and not options.as_json and call != ALL
    state = TapState() if has_panel else None
    lines = EventLines(show_call=call == ALL, verbose=options.verbose or bool(kinds))
    shown: _Shown = _JsonLines(kinds) if options.as_json else _Lines(console, lines, kinds, state)
    if call == ALL and not options.as_json:
        console.print("waiting for calls; Ctrl-C ends this", style="dim")
    async with AsyncExitStack() as stack:
        on_frame = await _heard(stack, options)
        if state is not None:
            stack.enter_context(_panel(console, state))
        reads = call != ALL and (has_panel if options.partials is None else options.partials)
        listens = reads or on_frame is not None
        async for message in lasting_events(address, call, _gone, worth_waiting(nats, settings)):
            if listens:
                listener = _listener(address, message, shown if reads else None, on_frame)
                await stack.enter_async_context(listener.running())
                listens = False
            event = decoder.decode(message.data)
            shown.event(event, message.data)
            if isinstance(event, CallEnded) and call != ALL:
                return


async def _heard(stack: AsyncExitStack, options: TapOptions) -> OnFrame | None:
    """Where frames go; what came of it is told when the stack is left."""
    if options.wav is None and not options.play:
        return None
    told = partial(errors.print, style="dim", markup=False, soft_wrap=True)
    heard = await stack.enter_async_context(hearing(options.wav, play=options.play, told=told))
    return heard.frame


def _listener(address: str, first: Msg, reads: _Shown | None, on_frame: OnFrame | None) -> Listener:
    """Who listens to the call that this is an event of."""
    _, org, _, call, *_ = first.subject.split(".")
    return Listener(address, org, call, reads.partial if reads is not None else lambda _: None, on_frame)


def _panel(console: Console, state: TapState) -> Live:
    """What stands below the lines; it vanishes at the end."""
    return Live(
        get_renderable=lambda: Group(*state.lines(datetime.now(UTC))),
        console=console,
        refresh_per_second=REFRESHES_PER_S,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _gone() -> None:
    errors.print("the bus went away; waiting for it …", style="dim")
