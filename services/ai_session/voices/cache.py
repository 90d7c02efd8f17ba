"""Speech is rendered once: memory in front of the object store in front of the provider.

A text is found again by everything that changes how it sounds. Requests for a text that is being rendered join it and
hear it as it comes; it goes on when the first of them leaves, and stops when the last does. Only what was rendered to
its end, word for word, is kept. The store gets a text that is asked for again, or that was rendered ahead: what is
said once in one call, to one caller, does not outlive the worker. No failure of the store ever fails a call.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import astuple, replace

from libs.audio.wav import WavError, read_wav, write_wav
from libs.object_store.store import ObjectNotFoundError, ObjectStore, ObjectStoreError
from libs.runtime.log import get_logger
from services.ai_session.voices.port import Chunk, Sound, Voice, VoiceError

KEY_VERSION = 1  # another one leaves all that was kept behind
STORE_READ_WITHIN_S = 0.1  # a caller waits for it; after that it is rendered anew
KEPT_READ_WITHIN_S = 2.0  # of what is rendered ahead
STORE_WRITE_WITHIN_S = 20.0
SEEN_TEXTS = 10_000

log = get_logger()


def normalized(text: str) -> str:
    """A text without what nobody hears: composed characters, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def key_of(sound: Sound, text: str) -> str:
    """The name of a text's rendering in a store, as an object's path."""
    parts = json.dumps([KEY_VERSION, *astuple(sound), normalized(text)], ensure_ascii=False)
    digest = hashlib.sha256(parts.encode()).hexdigest()
    return f"speech/{sound.provider}/{digest[:2]}/{digest}.wav"


class SpeechCache:
    """What the voices of a worker have said; `max_bytes` bounds what is held in memory (PCM)."""

    def __init__(self, store: ObjectStore | None, max_bytes: int) -> None:
        self.store = store
        self.counters: Counter[str] = Counter(
            dict.fromkeys(
                ("memory_hits", "store_hits", "misses", "collapsed", "stored", "store_failures", "store_slow"), 0
            )
        )
        self.held_bytes = 0
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._seen: OrderedDict[str, bool] = OrderedDict()  # whether it is in the store, as far as is known
        self._rendering: dict[str, Rendering] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def hit_rate(self) -> float:
        """The share of requests that cost nothing at the provider, from 0 to 1."""
        hits = sum(self.counters[kind] for kind in ("memory_hits", "store_hits", "collapsed"))
        requests = hits + self.counters["misses"]
        return hits / requests if requests else 0.0

    async def speak(self, voice: Voice, text: str, *, keep: bool = False) -> AsyncGenerator[Chunk]:
        """A text from where it is had fastest; `keep` puts it into the store at once.

        Raises:
            VoiceError: it had to be rendered, and was not.
        """
        text = normalized(text)
        key = key_of(voice.sound, text)
        keep = keep or self._seen_before(key)
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
            self.counters["memory_hits"] += 1
            if keep:
                self._store_later(key, held, voice.sound.rate_hz)
            yield Chunk(held)
            return
        rendering = self._rendering.get(key)
        if rendering is None:
            rendering = self._rendering[key] = Rendering()
            rendering.task = self._start(self._render(rendering, key, voice, text))
        else:
            self.counters["collapsed"] += 1
        rendering.keep = rendering.keep or keep
        async with aclosing(self._follow(rendering, key)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def close(self) -> None:
        """Stop all rendering; safe to call twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._rendering.clear()

    async def _follow(self, rendering: Rendering, key: str) -> AsyncGenerator[Chunk]:
        rendering.followers += 1
        try:
            async with aclosing(rendering.follow()) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            rendering.followers -= 1
            if not rendering.followers and not rendering.ended:
                self._forget(key, rendering)
                self.counters["abandoned"] += 1
                if rendering.task is not None:
                    rendering.task.cancel()

    async def _render(self, rendering: Rendering, key: str, voice: Voice, text: str) -> None:
        """The one request on behalf of all who wait."""
        try:
            if (stored := await self._stored(key, voice.sound.rate_hz, keep=rendering.keep)) is not None:
                rendering.add(Chunk(stored))
            else:
                self.counters["misses"] += 1
                async with aclosing(voice.speak(text)) as speech:
                    async for chunk in speech:
                        rendering.add(chunk)
        except VoiceError as error:
            self.counters["failures"] += 1
            rendering.end(error)
        else:
            rendering.end()
            self._remember(rendering, key, voice.sound.rate_hz, fresh=stored is None)
        finally:
            self._forget(key, rendering)
            if not rendering.ended:  # cancelled, or a defect: nobody may wait for ever
                rendering.end(VoiceError("stopped", "the rendering was stopped", retry=False))

    def _remember(self, rendering: Rendering, key: str, rate_hz: int, *, fresh: bool) -> None:
        if not rendering.verbatim:
            self.counters["not_verbatim"] += 1
            return
        pcm = rendering.pcm()
        if len(pcm) <= self._max_bytes:
            self._held[key] = pcm
            self.held_bytes += len(pcm)
        while self.held_bytes > self._max_bytes:
            _, oldest = self._held.popitem(last=False)
            self.held_bytes -= len(oldest)
        if fresh and rendering.keep:
            self._store_later(key, pcm, rate_hz)

    def _forget(self, key: str, rendering: Rendering) -> None:
        """It is no longer joined; another one may stand at its place already."""
        if self._rendering.get(key) is rendering:
            del self._rendering[key]

    def _seen_before(self, key: str) -> bool:
        seen = key in self._seen
        self._seen.setdefault(key, False)
        self._seen.move_to_end(key)
        if len(self._seen) > SEEN_TEXTS:
            self._seen.popitem(last=False)
        return seen

    # -- the store -----------------------------------------------------------------------------------

    async def _stored(self, key: str, rate_hz: int, *, keep: bool) -> bytes | None:
        if self.store is None:
            return None
        try:
            async with asyncio.timeout(KEPT_READ_WITHIN_S if keep else STORE_READ_WITHIN_S):
                wav = read_wav(await self.store.get(key))
            if (wav.rate_hz, wav.channels) != (rate_hz, 1) or not wav.pcm:
                raise WavError(f"{wav.rate_hz} Hz, {wav.channels} channels, {len(wav.pcm)} bytes")
        except ObjectNotFoundError:
            return None
        except TimeoutError:
            self.counters["store_slow"] += 1
            return None
        except (ObjectStoreError, WavError) as error:
            self._store_failed("read", key, error)
            return None
        self.counters["store_hits"] += 1
        self._seen[key] = True
        return wav.pcm

    def _store_later(self, key: str, pcm: bytes, rate_hz: int) -> None:
        if self.store is not None and not self._seen.get(key):
            self._seen[key] = True
            self._start(self._put(self.store, key, pcm, rate_hz))

    async def _put(self, store: ObjectStore, key: str, pcm: bytes, rate_hz: int) -> None:
        try:
            async with asyncio.timeout(STORE_WRITE_WITHIN_S):
                await store.put(key, write_wav(pcm, rate_hz), "audio/wav")
        except (ObjectStoreError, TimeoutError) as error:
            self._seen[key] = False
            self._store_failed("write", key, error)
        else:
            self.counters["stored"] += 1

    def _store_failed(self, what: str, key: str, error: Exception) -> None:
        self.counters["store_failures"] += 1
        if self.counters["store_failures"] == 1:  # then it is a number in the metrics
            log.warning(
                "speech is rendered without its store", what=what, key=key, why=str(error) or "it took too long"
            )

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class Rendering:
    """A text as it is being rendered: one writes, any number follow from the beginning."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.followers = 0
        self.keep = False
        self.ended = False
        self._chunks: list[Chunk] = []
        self._failure: VoiceError | None = None
        self._told: set[int] = set()  # chunks whose cost somebody has been told
        self._changed = asyncio.Event()

    @property
    def verbatim(self) -> bool:
        """Whether it was said word for word, as far as the voice knows."""
        return all(chunk.verbatim for chunk in self._chunks)

    def pcm(self) -> bytes:
        """All of it so far."""
        return b"".join(chunk.pcm for chunk in self._chunks)

    def add(self, chunk: Chunk) -> None:
        """The next piece."""
        self._chunks.append(chunk)
        self._wake()

    def end(self, failure: VoiceError | None = None) -> None:
        """Nothing more comes."""
        self.ended = True
        self._failure = failure
        self._wake()

    async def follow(self) -> AsyncGenerator[Chunk]:
        """The pieces from the first on. What it cost is told to one of those who follow: it was paid once.

        Raises:
            VoiceError: the rendering failed, now or before.
        """
        at = 0
        while True:
            while at < len(self._chunks):
                chunk = self._chunks[at]
                if chunk.usage is not None:
                    chunk = replace(chunk, usage=None) if at in self._told else chunk
                    self._told.add(at)
                at += 1
                yield chunk
            if self.ended:
                break
            await self._changed.wait()
        if (failure := self._failure) is not None:
            raise VoiceError(failure.code, str(failure), retry=failure.retry, after_s=failure.after_s)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class CachedVoice:
    """A voice that asks the cache first."""

    def __init__(self, voice: Voice, cache: SpeechCache) -> None:
        self._voice = voice
        self._cache = cache

    @property
    def sound(self) -> Sound:
        """See `Voice`."""
        return self._voice.sound

    def speak(self, text: str, *, keep: bool = False) -> AsyncGenerator[Chunk]:
        """See `Voice` and `SpeechCache.speak`."""
        return self._cache.speak(self._voice, text, keep=keep)

    async def close(self) -> None:
        """See `Voice`; the cache is closed by its owner."""
        await self._voice.close()
