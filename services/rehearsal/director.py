"""Decides what a response contains, from nothing but the conversation and the scenario.

The caller's turn is *counted* in the conversation, never remembered: a session that was opened after a
worker's death and filled with ``conversation.item.create`` goes on where the old one stopped.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from services.rehearsal.conversation import Conversation, Item
from services.rehearsal.outputs import Frame
from services.rehearsal.scenario import (
    Scenario,
    ScenarioError,
    Turn,
    holds,
    render_arguments,
    render_text,
)
from services.rehearsal.speech_text import sentences

# "Say exactly the following, word for word: ..." is how clients have a fixed sentence spoken.
_VERBATIM = re.compile(r"(?is)(?:exactly|verbatim|word for word|wörtlich|wortwörtlich|genau)[^:\n]*:\s*(?P<text>\S.*)")
_QUOTED = re.compile(r'"([^"]+)"|„([^“”"]+)[“”"]|“([^”]+)”|«([^»]+)»')
_ASKS_TO_REPEAT = re.compile(r"(?i)interrupted.*repeat the last|ask (?:the caller|them) to repeat|wiederholen")
_CARRIES_ON = re.compile(r"(?i)interrupted|carry on|continue|go on|fortfahren|weitermachen|fortsetzen")
_SAYS_GOODBYE = re.compile(r"(?i)goodbye|time limit|maximum duration|verabschied|gesprächszeit")
_GREETS = re.compile(r"(?i)\bgreet|begrüß")


@dataclass(frozen=True, slots=True)
class Say:
    """A message item spoken (or written) with this text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallTool:
    name: str
    arguments: str


Act: TypeAlias = Say | CallTool


@dataclass(frozen=True, slots=True)
class Request:
    """What a response was asked for: the fields of ``response.create`` that matter here.

    ``turn`` is the caller's turn where the conversation alone does not tell it.
    """

    instructions: str = ""
    input: tuple[Frame, ...] | None = None
    out_of_band: bool = False
    by_vad: bool = False
    idle: bool = False
    first: bool = False
    tools: frozenset[str] = frozenset()
    turn: int | None = None


def direct(scenario: Scenario, conversation: Conversation, request: Request) -> list[Act]:
    """The items of the next response, in order."""
    if request.idle:
        return [Say(scenario.idle)]
    if request.instructions or request.input is not None:
        return _instructed(scenario, conversation, request)
    acts = _continue(scenario, conversation, request)
    if request.first and not request.by_vad and _was_replayed(conversation):
        return [Say(scenario.resumed), *acts]
    return acts


def _instructed(scenario: Scenario, conversation: Conversation, request: Request) -> list[Act]:
    """Read ``instructions`` as a model would, as far as patterns can: a given text first, then its sense."""
    instructions = request.instructions
    verbatim = _VERBATIM.search(instructions)
    if verbatim is not None:
        return [Say(_unquoted(verbatim["text"]))]
    for rule in scenario.on_instructions:
        if re.search(rule.match, instructions):
            return [Say(rule.say)]
    if request.input is None or not request.out_of_band:
        if _ASKS_TO_REPEAT.search(instructions):
            return [Say(scenario.ask_to_repeat)]
        if _SAYS_GOODBYE.search(instructions):
            return [Say(scenario.goodbye)]
        if _CARRIES_ON.search(instructions):
            return [Say(scenario.resumed), *_continue(scenario, conversation, request)]
    for item in reversed(request.input or ()):
        texts = [part.get("text") for part in item.get("content") or [] if part.get("text")]
        if texts:
            return [Say(" ".join(texts))]
    quoted = _QUOTED.findall(instructions)
    if quoted:
        return [Say(_unquoted(max(quoted[-1], key=len)))]
    if _GREETS.search(instructions):
        return [Say(scenario.greeting)]
    return _continue(scenario, conversation, request)


def _unquoted(text: str) -> str:
    return " ".join(text.split()).strip("\"„“”«»' ")


def _continue(scenario: Scenario, conversation: Conversation, request: Request) -> list[Act]:
    number = conversation.turn if request.turn is None else request.turn
    since = _since_last_turn(conversation)
    if number == 0:
        return _unless_said(scenario, [scenario.greeting], since)
    turn = scenario.turn(number)
    if turn is None:
        return _unless_said(scenario, [scenario.default_answer(number)], since)
    results = tool_results(conversation)
    act = _next_step(turn, since, results, request.tools)
    if act is not None:
        return act or [Say(scenario.wait)]
    try:
        answers = [answer for text in turn.answers if (answer := render_text(text, results))]
    except ScenarioError:
        answers = []
    return _unless_said(scenario, answers or [scenario.default_answer(number)], since)


def _unless_said(scenario: Scenario, answers: list[str], since: list[Item]) -> list[Act]:
    """The answers, or after a cut what is left of them, or a polite question when all has been said."""
    if _is_answered(since):
        return [Say(scenario.follow_up)]
    heard = " ".join(i.text for i in since if i.is_assistant_message and i.origin == "client")
    if heard:
        # A replayed message holds what the caller heard: go on with the first sentence that is not in it.
        kept = [" ".join(s for s in sentences(answer) if s not in heard) for answer in answers]
        answers = [text for text in kept if text]
    return [Say(text) for text in answers] or [Say(scenario.follow_up)]


def _next_step(turn: Turn, since: list[Item], results: dict[str, Any], tools: frozenset[str]) -> list[Act] | None:
    """The calls that are due; empty while results are awaited; None when it is time to answer."""
    made = [item for item in since if item.kind == "function_call" and not item.is_unfinished]
    answered = {item.body["call_id"] for item in since if item.kind == "function_call_output"}
    for step in turn.steps:
        calls = [call for call in step.calls if call.tool in tools]
        taken, made = _match([call.tool for call in calls], made)
        if taken:
            if any(item.body.get("call_id") not in answered for item in taken):
                return []
            for call, item in zip(calls, taken, strict=False):
                results[call.result_name] = _result_of(item, since)
            continue
        try:
            if not calls or (step.when is not None and not holds(step.when, results)):
                continue
            acts: list[Act] = [
                CallTool(call.tool, json.dumps(render_arguments(call.arguments, results), ensure_ascii=False))
                for call in calls
            ]
        except ScenarioError:
            # A result this step builds on is missing (nothing found, tool failed): the answer says so.
            return None
        return [Say(step.say), *acts] if step.say else acts
    return None


def _match(names: list[str], made: list[Item]) -> tuple[list[Item], list[Item]]:
    """Split the calls already made into those of a step and the rest; none unless the first fits."""
    taken: list[Item] = []
    for name in names:
        if made[len(taken) : len(taken) + 1] and made[len(taken)].body["name"] == name:
            taken.append(made[len(taken)])
    return taken, made[len(taken) :]


def tool_results(conversation: Conversation) -> dict[str, Any]:
    """Results by tool name over the whole conversation, the latest of each, parsed as JSON if they are."""
    names = {i.body.get("call_id"): i.body["name"] for i in conversation.items if i.kind == "function_call"}
    found: dict[str, Any] = {}
    for item in conversation.items:
        if item.kind == "function_call_output" and item.body["call_id"] in names:
            found[names[item.body["call_id"]]] = _parsed(item.body["output"])
    return found


def _result_of(call: Item, since: list[Item]) -> Any:
    for item in since:
        if item.kind == "function_call_output" and item.body["call_id"] == call.body.get("call_id"):
            return _parsed(item.body["output"])
    return None


def _parsed(output: str) -> Any:
    try:
        return json.loads(output)
    except ValueError:
        return output


def _since_last_turn(conversation: Conversation) -> list[Item]:
    items = conversation.items
    last = max((index for index, item in enumerate(items) if item.is_user_turn), default=-1)
    return items[last + 1 :]


def _is_answered(since: list[Item]) -> bool:
    """Whether the last word since the caller's turn is a complete message after every tool result.

    Results of an earlier turn's calls, which a barge-in overtook, do not reopen this one.
    """
    calls = {item.body.get("call_id") for item in since if item.kind == "function_call"}
    for item in reversed(since):
        if item.kind == "function_call_output" and item.body["call_id"] in calls:
            return False
        if item.is_assistant_message:
            # A replayed message may have been cut at any point: answering again is the safe reading.
            return item.origin == "model" and not item.is_unfinished
    return False


def _was_replayed(conversation: Conversation) -> bool:
    """Whether the client rebuilt an earlier conversation; a lone user message is just text input."""
    return any(
        item.origin == "client" and (item.is_assistant_message or item.kind == "function_call")
        for item in conversation.items
    )
