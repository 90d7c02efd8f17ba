"""``POST /v1/chat/completions``, streamed and whole."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from services.rehearsal.chat import (
    Answer,
    PromptCache,
    answer,
    deltas,
    standing_instructions,
    turn_of,
    with_invalid_arguments,
)
from services.rehearsal.chat_request import ChatRequest, read_chat_request
from services.rehearsal.http_exchange import Exchange, exchanged, json_body
from services.rehearsal.offered import CHAT
from services.rehearsal.outputs import Frame
from services.rehearsal.request_log import ChatView, text_of
from services.rehearsal.scenario import Scenario

if TYPE_CHECKING:
    from services.rehearsal.server import Rehearsal

_CHARACTERS_PER_TOKEN = 4


def chat_routes(rehearsal: Rehearsal) -> list[web.RouteDef]:
    cache = PromptCache()

    async def complete(exchange: Exchange) -> web.StreamResponse:
        return await _complete(exchange, cache)

    return [web.post("/v1/chat/completions", exchanged(rehearsal, "chat", complete))]


async def _complete(exchange: Exchange, cache: PromptCache) -> web.StreamResponse:
    rehearsal, record = exchange.rehearsal, exchange.record
    body = await json_body(exchange.request)
    record.model = str(body.get("model") or "")
    request = read_chat_request(body)
    rehearsal.offered.require(request.model, CHAT)
    scenario = rehearsal.scenarios.choose(
        instructions=standing_instructions(request.messages), query=exchange.request.query.get("scenario")
    )
    turn = turn_of(scenario, request.messages)
    record.scenario, record.turn = scenario.name, turn
    record.asked = {"messages": len(request.messages), "tools": sorted(request.tools), "stream": request.stream}
    view = _view(exchange, request, scenario, turn)
    await exchange.meet_faults(turn, also=view.due_faults(scenario.faults, turn))
    call_ids = iter(lambda: rehearsal.new_id("call"), "")
    made = _faulty(exchange, answer(scenario, request, call_ids, standing=view.standing))
    record.answer = view.answer = made.message
    record.usage = cache.usage(request, made)
    completion = _Completion(exchange, request, made, record.usage)
    settings = rehearsal.settings
    pause_s = 1 / settings.chat_tokens_per_s if settings.chat_tokens_per_s else 0.0
    first_s = settings.chat_first_token_ms / 1000
    if request.stream:
        chunks = ((chunk, len(said) * pause_s / _CHARACTERS_PER_TOKEN) for chunk, said in completion.chunks())
        return await exchange.send_events(chunks, first_s=first_s, last=b"data: [DONE]\n\n")
    return await exchange.send_json(completion.whole(), delay_s=first_s + made.tokens * pause_s)


def _view(exchange: Exchange, request: ChatRequest, scenario: Scenario, turn: int) -> ChatView:
    """Note what the client says was said so far."""
    first = text_of(request.messages[0])
    key = request.key or hashlib.sha1(first.encode(), usedforsecurity=False).hexdigest()[:12]
    view = exchange.rehearsal.requests.conversation(key)
    exchange.record.asked["conversation"] = key
    view.scenario, view.turn, view.messages = scenario.name, turn, request.messages
    view.requests += 1
    view.note_instructions(first if request.messages[0]["role"] in ("system", "developer") else "")
    return view


def _faulty(exchange: Exchange, made: Answer) -> Answer:
    incomplete = exchange.fault("incomplete")
    if incomplete is not None:
        reason = "content_filter" if incomplete.reason == "content_filter" else "length"
        return replace(made, text=made.text[: len(made.text) // 2], calls=(), finish_reason=reason)
    if exchange.fault("invalid_arguments") is not None:
        return with_invalid_arguments(made)
    return made


class _Completion:
    """The wire form of an answer."""

    def __init__(self, exchange: Exchange, request: ChatRequest, made: Answer, usage: Frame) -> None:
        self._exchange, self._request, self._made, self._usage = exchange, request, made, usage
        self._rng = exchange.rehearsal.new_rng()
        self._about: Frame = {
            "id": exchange.rehearsal.new_id("chatcmpl"),
            "created": int(time.time()),
            "model": request.model,
            "service_tier": "default",
            "system_fingerprint": None,
        }

    def chunks(self) -> Iterator[tuple[Frame, str]]:
        """``chat.completion.chunk`` objects, each with the characters it brings."""
        for delta, said in deltas(self._made, self._rng):
            yield self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]), said
        reason = self._made.finish_reason
        yield self._chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}]), ""
        if self._request.include_usage:
            yield self._chunk([], self._usage), ""

    def _chunk(self, choices: list[Frame], usage: Frame | None = None) -> Frame:
        chunk = {**self._about, "object": "chat.completion.chunk", "choices": choices}
        if self._request.include_usage:
            chunk["usage"] = usage
        if self._request.obfuscated:
            # Noise of random length, which keeps an observer from reading lengths.
            chunk["obfuscation"] = secrets.token_urlsafe(8)[: self._rng.randint(1, 10)]
        return self._exchange.check(ChatCompletionChunk, chunk)

    def whole(self) -> Frame:
        """The ``chat.completion`` object."""
        choice = {
            "index": 0,
            "message": {**self._made.message, "annotations": []},
            "logprobs": None,
            "finish_reason": self._made.finish_reason,
        }
        body = {**self._about, "object": "chat.completion", "choices": [choice], "usage": self._usage}
        return self._exchange.check(ChatCompletion, body)
