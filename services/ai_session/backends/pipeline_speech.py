"""Speaks the pieces of one answer in order, the next one being made while the one before is handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from services.ai_session.backends.port import UsageCounted
from services.ai_session.backends.stage_errors import StageError, voice_failed
from services.ai_session.costs import Models
from services.ai_session.voices.port import Voice, VoiceError
from services.ai_session.voices.spending import usage_of

AT_A_TIME = 2  # pieces that the voice works on


class SpeechSink(Protocol):
    """Who gets the speech, piece by piece: `piece_began`, `piece_audio`, `piece_ended`."""

    def piece_began(self, text: str) -> None:
        """The first audio of this piece follows."""
        ...

    def piece_audio(self, pcm: bytes) -> None:
        """Whole samples at the call's rate."""
        ...

    def piece_ended(self) -> None:
        """The piece is complete."""
        ...

    def speech_cost(self, usage: UsageCounted) -> None:
        """What a piece cost, spoken to its end or not."""
        ...


@dataclass(slots=True)
class _Piece:
    """On its way from the voice to the sink; `chunks` end with None, or with what went wrong."""

    text: str
    chunks: asyncio.Queue[bytes | StageError | None] = field(default_factory=asyncio.Queue)


class Speech:
    """One answer's speech: `say` takes pieces, `finish` ends them, `run` hands all of it on.

    `first_audio` is told how long the voice took to begin.
    """

    def __init__(self, voice: Voice, models: Models, sink: SpeechSink, first_audio: Callable[[float], None]) -> None:
        self._voice, self._models, self._sink, self._first_audio = voice, models, sink, first_audio
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()
        self._pieces: asyncio.Queue[_Piece | None] = asyncio.Queue()
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._is_first = True

    def say(self, text: str) -> None:
        """Speak this after what was said before."""
        self._texts.put_nowait(text)

    def finish(self) -> None:
        """Nothing more is to be said."""
        self._texts.put_nowait(None)

    async def run(self) -> StageError | None:
        """Until everything was handed on, or the voice failed. Cancel it to stop at once."""
        tasks: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as group:
            tasks.append(group.create_task(self._make(group, tasks)))
            failure = await self._hand_on()
            for task in tasks:
                task.cancel()
        return failure

    async def _make(self, group: asyncio.TaskGroup, tasks: list[asyncio.Task[None]]) -> None:
        while (text := await self._texts.get()) is not None:
            await self._slots.acquire()
            piece = _Piece(text)
            self._pieces.put_nowait(piece)
            tasks.append(group.create_task(self._render(piece)))
        self._pieces.put_nowait(None)

    async def _hand_on(self) -> StageError | None:
        while (piece := await self._pieces.get()) is not None:
            has_begun = False
            while (chunk := await piece.chunks.get()) is not None:
                if isinstance(chunk, StageError):
                    return chunk
                if not has_begun:
                    has_begun = True
                    self._sink.piece_began(piece.text)
                self._sink.piece_audio(chunk)
            if has_begun:
                self._sink.piece_ended()
            self._slots.release()
        return None

    async def _render(self, piece: _Piece) -> None:
        try:
            await self._speak(piece)
        except VoiceError as error:  # the voice itself has tried again
            piece.chunks.put_nowait(voice_failed(error))
        else:
            piece.chunks.put_nowait(None)

    async def _speak(self, piece: _Piece) -> None:
        """What the voice has begun to speak is paid for, also when nobody waits for its end."""
        loop = asyncio.get_running_loop()
        asked_at, samples, settled = loop.time(), 0, False
        try:
            async with aclosing(self._voice.speak(piece.text)) as chunks:
                async for chunk in chunks:
                    if chunk.usage is not None:
                        settled = True
                        self._sink.speech_cost(chunk.usage)
                    if not chunk.pcm:
                        continue
                    if self._is_first:
                        self._is_first = False
                        self._first_audio(loop.time() - asked_at)
                    samples += len(chunk.pcm) // 2
                    piece.chunks.put_nowait(chunk.pcm)
            settled = True  # without a price: it was spoken before, and kept
        finally:
            if samples and not settled:
                sound = self._voice.sound
                self._sink.speech_cost(usage_of(self._models, sound.model, piece.text, samples / sound.rate_hz))
