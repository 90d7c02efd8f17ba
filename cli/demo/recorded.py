"""What the model said according to the rehearsal's records, found for each of the agent's turns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cli.demo.checks import Said
from libs.contracts.events import AgentTurn


@dataclass(frozen=True, slots=True)
class Recorded:
    """One item of a model's session."""

    item: str
    said: Said


def by_name(turns: Iterable[AgentTurn], recorded: Sequence[Recorded]) -> dict[str, Said]:
    """Of a backend whose items have names."""
    wanted = {turn.item for turn in turns}
    return {one.item: one.said for one in recorded if one.item in wanted}


def by_words(turns: Iterable[AgentTurn], recorded: Sequence[Recorded]) -> dict[str, Said]:
    """Of one that names nothing: the next items whose words, put together, are the turn's."""
    found: dict[str, Said] = {}
    left = list(recorded)
    for turn in turns:
        for start in range(len(left)):
            taken = _matching(turn.text, left[start:])
            if taken:
                found[turn.item] = _together(left[start : start + taken])
                del left[start : start + taken]
                break
    return found


def _matching(text: str, recorded: Sequence[Recorded]) -> int:
    """How many items from the first on make up this text; 0 if they do not."""
    words = ""
    for count, one in enumerate(recorded, 1):
        words = f"{words} {one.said.text}".strip()
        if words == text:
            return count
        if not text.startswith(words):
            return 0
    return 0


def _together(items: Sequence[Recorded]) -> Said:
    if len(items) == 1:
        return items[0].said
    # Between two items the model breathes for as long as it likes: only the first one has a known place in time.
    return Said(" ".join(one.said.text for one in items), items[0].said.audio)
