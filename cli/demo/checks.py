"""What the demo proves, as decisions over what was stored and heard. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

from cli.demo.script import LEAST_CORRELATION, OUTCOME, ExpectedLine
from libs.audio.compare import best_correlation
from libs.contracts.events import AgentTurn, CallClaimed, CallEnded, Event, OrderPlaced
from libs.contracts.media import MediaStatistics

RATE_HZ = 8000
LEAST_COMPARED_MS = 200  # shorter pieces correlate with anything
PIECE_MS = 250  # of a voice at real-time pace, which falters where the machine was late
FALTERING = 1 / 5  # of its pieces may have such a gap in them
OVERPLAY_MS = 600  # so much of what the caller cut off is looked for
ROUNDING_MS = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the checklist."""

    text: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """One item as the model has it: its text (erased when truncated), its whole audio, where it believes it was cut.

    `paced`: it came at real-time pace, so that pauses in it are made on the way.
    """

    text: str
    audio: bytes
    truncated_at_ms: float | None = None
    paced: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is judged: events, the store's answer to `get`, orders, and audio as PCM16LE at 8 kHz."""

    events: Sequence[Event]
    conversation: Mapping[str, Any]
    orders: Sequence[Mapping[str, Any]]
    heard: bytes
    items: Mapping[str, Said]  # the model's own records


def conversation_checks(evidence: Evidence, texts: Sequence[str], wanted: Sequence[ExpectedLine]) -> list[Check]:
    """The promises of every demo."""
    turns = evidence.conversation["turns"]
    stored = [str(turn["text"]) for turn in turns if turn["speaker"] == "caller"]
    # What a worker's death cut short goes on as another agent turn; what the caller cut short, as the caller's.
    interrupted = [
        turn
        for turn, following in pairwise(turns)
        if turn["speaker"] == "agent" and turn["interrupted"] and following["speaker"] == "caller"
    ]
    ends = [event for event in evidence.events if isinstance(event, CallEnded)]
    placed = [event for event in evidence.events if isinstance(event, OrderPlaced)]
    outcome = evidence.conversation["conversation"]["outcome"]
    return [
        Check("every caller turn is stored, word for word", stored == list(texts), _difference(stored, texts)),
        Check("the order is stored exactly once", len(evidence.orders) == 1 == len(placed), f"{len(evidence.orders)}"),
        Check("its lines are right", *_order_lines(evidence.orders, wanted)),
        Check("the caller interrupted the agent once", len(interrupted) == 1, f"{len(interrupted)} stored as such"),
        Check("the call ended exactly once", len(ends) == 1, f"{len(ends)} times"),
        Check(f"its outcome is {OUTCOME!r}", outcome == OUTCOME, f"it is {outcome!r}"),
        _agent_turns(evidence),
        _heard(evidence),
        _cut_off(evidence),
    ]


def takeover_checks(events: Sequence[Event]) -> list[Check]:
    """What holds besides when a worker was killed or frozen."""
    workers = list(dict.fromkeys(event.wk for event in events if isinstance(event, CallClaimed)))
    epochs = [event.epoch for event in events if isinstance(event, CallClaimed)]
    return [
        Check("another worker continued the call", len(workers) == 2, f"workers: {', '.join(workers)}"),
        Check("each attempt had an epoch of its own", len(set(epochs)) == len(epochs), f"epochs: {epochs}"),
    ]


def correlations(evidence: Evidence) -> dict[str, float]:
    """Of each agent turn: the model's audio, cut to what the ledger says was heard, in the recording."""
    found: dict[str, float] = {}
    for turn in evidence.events:
        if not isinstance(turn, AgentTurn) or turn.heard_ms < LEAST_COMPARED_MS:
            continue
        said = evidence.items.get(turn.item)
        heard = _cut(said.audio, 0, turn.heard_ms) if said else b""
        compare = _in_pieces if said is not None and said.paced else _as_a_whole
        found[turn.item] = compare(heard, evidence.heard) if heard else 0.0
    return found


def _as_a_whole(said: bytes, heard: bytes) -> float:
    return best_correlation(said, heard)[0]


def _in_pieces(said: bytes, heard: bytes) -> float:
    """The least of its pieces, but for those that a gap has torn."""
    size = 2 * PIECE_MS * RATE_HZ // 1000
    pieces = [said[start : start + size] for start in range(0, max(1, len(said) - size // 2), size)]
    found = sorted(_as_a_whole(piece, heard) for piece in pieces if any(piece))
    return found[min(len(found) - 1, ceil(len(found) * FALTERING))] if found else 0.0


def _cut(audio: bytes, from_ms: float, to_ms: float) -> bytes:
    return audio[2 * round(from_ms * RATE_HZ / 1000) : 2 * round(to_ms * RATE_HZ / 1000)]


def _agent_turns(evidence: Evidence) -> Check:
    """Once each, in the model's words: what a dead worker left is stored from its sentences, without an event."""
    stored = [turn for turn in evidence.conversation["turns"] if turn["speaker"] == "agent"]
    items = [turn["item"] for turn in stored]
    twice = sorted({item for item in items if items.count(item) > 1})
    missing = {event.item for event in evidence.events if isinstance(event, AgentTurn)} - set(items)
    wrong = [
        turn["item"]
        for turn in stored
        if (said := evidence.items.get(turn["item"])) and said.truncated_at_ms is None and not turn["interrupted"]
        and said.text != turn["text"]
    ]  # fmt: skip
    problems = [
        f"{what}: {found}"
        for what, found in (("twice", twice), ("missing", sorted(missing)), ("other words", wrong))
        if found
    ]
    return Check(
        "every agent turn is stored once, in the model's words",
        not problems,
        "; ".join(problems) or f"{len(items)} turns",
    )


def _cut_off(evidence: Evidence) -> Check:
    """After an interruption: nothing of the rest was played, and the model was told where it was cut."""
    problems: list[str] = []
    for turn in evidence.events:
        if not isinstance(turn, AgentTurn) or not turn.interrupted or (said := evidence.items.get(turn.item)) is None:
            continue
        rest = _cut(said.audio, turn.heard_ms, turn.heard_ms + OVERPLAY_MS)
        if len(rest) >= 2 * LEAST_COMPARED_MS * RATE_HZ // 1000:
            value = best_correlation(rest, evidence.heard)[0]
            if value >= LEAST_CORRELATION:
                problems.append(f"{turn.item} was played on after the cut ({value:.3f})")
        told = said.truncated_at_ms
        if told is not None and abs(told - turn.heard_ms) > ROUNDING_MS:
            problems.append(
                f"the model believes {told:.0f} ms of {turn.item} were heard, the line carried {turn.heard_ms:.0f}"
            )
    return Check("what was cut off was not heard, and the model knows", not problems, "; ".join(problems))


def _heard(evidence: Evidence) -> Check:
    found = correlations(evidence)
    least = min(found.values(), default=0.0)
    passed = least >= LEAST_CORRELATION
    detail = ", ".join(f"{value:.3f}" for value in found.values())
    if not passed and (torn := _torn(evidence.events)):
        detail += f"; on its way: {torn}"
    return Check(f"what the ledger says was heard was heard (≥ {LEAST_CORRELATION})", passed, detail)


def _torn(events: Sequence[Event]) -> str:
    """What the entrance counted that tears a voice apart, as far as it happened."""
    media = next((event.media for event in events if isinstance(event, CallEnded)), MediaStatistics())
    counted = {
        "underruns": media.dn_underrun,
        "frames trimmed": media.dn_trimmed,
        "frames lost on the bus": media.dn_lost,
        "stale frames": media.dn_stale,
        "packets without a time, the gateway having stood still": media.rtp_skipped,
    }
    return ", ".join(f"{number} {what}" for what, number in counted.items() if number)


def _order_lines(orders: Sequence[Mapping[str, Any]], wanted: Sequence[ExpectedLine]) -> tuple[bool, str]:
    lines = list(orders[0]["lines"]) if orders else []
    shown = "; ".join(f"{line['quantity']} × {line['name']}" for line in lines) or "no lines"
    fits = len(lines) == len(wanted) and all(
        line["quantity"] == expected.quantity and str(line["name"]).startswith(expected.name)
        for line, expected in zip(lines, wanted, strict=False)
    )
    return fits, shown


def _difference(stored: Sequence[str], wanted: Sequence[str]) -> str:
    if list(stored) == list(wanted):
        return f"{len(stored)} turns"
    missing = [text for text in wanted if text not in stored]
    added = [text for text in stored if text not in wanted]
    return f"missing {missing}, added {added}" if missing or added else f"order or number: {list(stored)}"
