"""Chat completions over HTTP: the shell around `chat_request` and `chat_reply`, one per endpoint and worker.

Chunks are read as plain JSON with the openai package's stream: building its models for every token would cost more than
all else here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import openai
from openai import AsyncStream

from services.ai_session.backends.chat_reply import ChatReply, ReplyWritten
from services.ai_session.backends.chat_request import ChatRequest, Dialect
from services.ai_session.backends.stage_errors import Patience, StageFault, stage_error
from services.ai_session.instruments import request_under_way
from services.ai_session.settings import is_openai

FIRST_CHUNK_WITHIN_S = 10.0
NEXT_CHUNK_WITHIN_S = 8.0
PAUSES_S = (0.3, 1.0)  # before the second and the third attempt
LONGEST_PAUSE_S = 1.5  # who wants more time is asked again by the session, which may say something meanwhile
_NOT_TAKEN = (400, 422)


class ChatModel:
    """Asks one endpoint. `client` belongs to whoever made it."""

    def __init__(self, client: openai.AsyncOpenAI, counters: Counter[str]) -> None:
        self._client = client
        self._dialect = Dialect(is_openai=is_openai(str(client.base_url)))
        self._counters = counters
        self.first_within_s = FIRST_CHUNK_WITHIN_S
        self.next_within_s = NEXT_CHUNK_WITHIN_S
        self.pauses_s = PAUSES_S

    async def answer(self, request: ChatRequest, reply: ChatReply, on_text: Callable[[str], None]) -> ReplyWritten:
        """Stream an answer into `reply`; `on_text` gets what is meant to be heard as it comes.

        Raises:
            StageError: no answer could be had, or it broke off after it had begun.
        """
        patience = Patience(self.pauses_s, LONGEST_PAUSE_S)
        while True:
            body = self._dialect.body(request)
            try:
                with request_under_way("chat", "openai"):
                    return await self._stream(body, reply, on_text)
            except openai.APIStatusError as error:
                if error.status_code in _NOT_TAKEN and self._dialect.refused(body, error.param, error.message):
                    self._counters["chat_dialect"] += 1
                    continue
                failure = stage_error("chat", error)
            except (*StageFault, ValueError) as error:
                failure = stage_error("chat", error)
            self._counters["chat_failed"] += 1
            pause_s = None if reply.has_begun else patience.pause_s(failure)
            if pause_s is None:
                raise failure
            await asyncio.sleep(pause_s)

    async def _stream(self, body: dict[str, Any], reply: ChatReply, on_text: Callable[[str], None]) -> ReplyWritten:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.first_within_s) as limit:
            stream = await self._client.post(
                "/chat/completions", cast_to=object, body=body, stream=True, stream_cls=AsyncStream[object]
            )
            self._dialect.taken(body)
            async with stream:
                async for chunk in stream:
                    limit.reschedule(loop.time() + self.next_within_s)
                    if text := reply.push(chunk):
                        on_text(text)
        return reply.end()
