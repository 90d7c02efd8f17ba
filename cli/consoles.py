"""The console that commands print on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # to a terminal: C0 but tab and newline, DEL, C1
INSTEAD = "\N{REPLACEMENT CHARACTER}"


class PlainConsole(Console):
    """Prints text as it is: most of it was said by callers, models and tools.

    Rich takes `[/x]` for markup (and raises), `:a:` in an IPv6 address for an emoji, and lets ESC through, with which
    whoever calls could write over the engineer's screen.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Rich does, without characters that command a terminal."""
        for segment in super().render(renderable, options):
            if segment.control is None and COMMANDS.search(segment.text):
                yield Segment(COMMANDS.sub(INSTEAD, segment.text), segment.style)
            else:
                yield segment
