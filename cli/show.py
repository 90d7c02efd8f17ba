"""A stored conversation as text: turns with their tool calls in between, then outcome, cost and times."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from cli.remedies import REMEDIES
from cli.render import shortened
from libs.contracts.termination import Reason

_ROLES = {"caller": ("Caller  ", "bold cyan"), "agent": ("Agent   ", "bold green")}


def print_conversation(console: Console, answer: dict[str, Any]) -> None:
    """Print what `transcript_store get` answered."""
    conversation = answer["conversation"]
    head = " · ".join(
        f"{name} {conversation[name]}" for name in ("caller", "callee", "agent", "outcome") if conversation.get(name)
    )
    console.print(Text(str(conversation["call"]), style="bold").append(f"  {head}", style="default"), soft_wrap=True)
    for line in conversation_lines(answer):
        console.print(line, soft_wrap=True)
    if why := _why(conversation):
        console.print(why, style="red", soft_wrap=True, markup=False)
    for part in answer.get("recordings", ()):
        lacking = "" if part.get("is_complete", True) else ", its end may be missing"
        seconds = part["duration_ms"] / 1000
        console.print(f"recorded {seconds:.1f} s{lacking}: callbus play {conversation['call']}", style="dim")


def conversation_lines(answer: dict[str, Any]) -> list[Text]:
    """Turns and tool calls in the order of their time, then one line of facts."""
    conversation = answer["conversation"]
    entries = [(str(turn.get("started_at") or ""), _turn(turn)) for turn in answer["turns"]]
    entries += [(str(call.get("called_at") or ""), _tool_call(call)) for call in answer["tool_calls"]]
    lines = [line for _, line in sorted(entries, key=lambda entry: entry[0])]
    facts = [_fact(conversation, *fact) for fact in _FACTS if conversation.get(fact[0]) is not None]
    lines.append(Text(" · ".join(facts), style="dim"))
    money = _money(answer.get("usage") or [])
    return [*lines, Text(money, style="dim")] if money else lines


def _money(usage: list[dict[str, Any]]) -> str:
    """Cost by source and model; what has no known price is said, so that the sum is not taken for all of it."""
    sums: dict[tuple[str, str], list[float | None]] = {}
    for one in usage:
        sums.setdefault((str(one.get("source")), str(one.get("model"))), []).append(one.get("cost_usd"))
    parts = []
    for (source, model), costs in sums.items():
        known = [cost for cost in costs if cost is not None]
        unknown = len(costs) - len(known)
        shown = f"{sum(known):.6g} USD" if known else "price unknown"
        more = f", {unknown} of them without a price" if known and unknown else ""
        parts.append(f"{source} {model} {shown} ({len(costs)}{more})")
    return " · ".join(parts)


def _why(conversation: dict[str, Any]) -> str:
    """Why a call failed, and what to do about it."""
    try:
        reason = Reason(str(conversation.get("reason")))
    except ValueError:
        return ""
    if reason not in REMEDIES:
        return ""
    detail = f": {conversation['detail']}" if conversation.get("detail") else ""
    return f"failed ({reason.value}){detail}\nwhat to do: {REMEDIES[reason]}"


_FACTS = (
    ("began_at", "began", ""),
    ("duration_ms", "lasted", "ms"),
    ("talk_ms", "talked", "ms"),
    ("result", "result", ""),
    ("reason", "reason", ""),
    ("cost_usd", "cost", "USD"),
)


def _fact(conversation: dict[str, Any], name: str, label: str, unit: str) -> str:
    value = conversation[name]
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"{label} {shown}{' ' if unit else ''}{unit}"


def _turn(turn: dict[str, Any]) -> Text:
    name, style = _ROLES.get(str(turn.get("speaker")), (f"{turn.get('speaker')}  ", "bold"))
    said = str(turn.get("text") or "")
    text = Text(name, style=style)
    if not turn.get("interrupted"):
        return text.append(said, style="default")
    heard = str(turn.get("heard_text") or "")
    unheard = said.removeprefix(heard)
    return text.append(heard, style="default").append(f" ✂{unheard}", style="dim strike")


def _tool_call(call: dict[str, Any]) -> Text:
    match call.get("ok", True):
        case None:
            verdict = " without an answer"
        case False:
            verdict = f" failed: {shortened(call.get('output'))}"
        case _:
            verdict = ""
    took = f" {call['took_ms']:.0f} ms" if call.get("took_ms") is not None else ""
    return Text(f"        → {call.get('name')} {call.get('arguments')}{took}{verdict}", style="magenta")
