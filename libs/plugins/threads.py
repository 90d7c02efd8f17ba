"""Where plug-ins run: beside the service, so that one that blocks or hangs holds up nobody but itself.

Each plug-in has a thread with an event loop of its own. A plug-in that blocks it (`time.sleep`, a synchronous client)
misses its deadlines, and after `STUCK_AFTER` of them in a row gets a new thread; the old one is left behind, at most
`MOST_LEFT_BEHIND` times. A synchronous plug-in has a thread per call, `MOST_CALL_THREADS` at most. All threads are
daemons: none of them can keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

STUCK_AFTER = 2
MOST_LEFT_BEHIND = 8
MOST_CALL_THREADS = 64  # of synchronous plug-ins: twice as many as may be asked for at once
PING_S = 0.2


class StuckError(RuntimeError):
    """A plug-in has blocked all the threads that it may have."""


class PluginThread:
    """An event loop in a daemon thread, replaced when it is stuck."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._missed = 0
        self.left_behind = 0
        self._loop = self._new_loop()

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=_run_forever, args=(loop,), name=f"plugin-{self._name}", daemon=True).start()
        return loop

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """Run a coroutine in the thread.

        Raises:
            TimeoutError: it took longer; it is cancelled, if it lets itself be.
            StuckError: no thread is left.
        """
        if self._missed >= STUCK_AFTER:
            await self._replace()
        future: Future[T] = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            async with asyncio.timeout(timeout_s):
                result = await asyncio.wrap_future(future)
        except TimeoutError:
            future.cancel()
            self._missed += 1
            raise
        self._missed = 0
        return result

    async def _replace(self) -> None:
        """A loop that still turns is only slow; one that does not is left behind."""
        answered = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop))
        try:
            async with asyncio.timeout(PING_S):
                await answered
        except TimeoutError:
            if self.left_behind >= MOST_LEFT_BEHIND:
                raise StuckError(f"{self._name} has blocked {self.left_behind} threads") from None
            self.left_behind += 1
            self._loop = self._new_loop()
        self._missed = 0

    def close(self) -> None:
        """Let the thread end, if it can."""
        self._loop.call_soon_threadsafe(self._loop.stop)


class SameLoop:
    """In place of a thread: for plug-ins that belong to the service and share its connections."""

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """Run a coroutine here.

        Raises:
            TimeoutError: it took longer.
        """
        async with asyncio.timeout(timeout_s):
            return await work()

    def close(self) -> None:
        """Nothing to close."""


class CallThreads:
    """Synchronous calls of one plug-in, each in a daemon thread. Nobody can end one that hangs: they are counted."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._free = threading.BoundedSemaphore(MOST_CALL_THREADS)

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in a thread of its own, which does not outlive the process.

        Raises:
            StuckError: as many as there may be have not returned.
        """
        if not self._free.acquire(blocking=False):
            raise StuckError(f"{MOST_CALL_THREADS} calls of {self._name} have not returned")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # nobody can cancel a thread

        def call() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001  handed to who waits
                future.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)
            except BaseException as error:  # noqa: BLE001  sys.exit() in a plug-in ends no loop
                future.set_exception(RuntimeError(f"it tried to end the process: {error!r}"))
            finally:
                self._free.release()

        threading.Thread(target=call, name=f"plugin-call-{self._name}", daemon=True).start()
        return await asyncio.wrap_future(future)


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
