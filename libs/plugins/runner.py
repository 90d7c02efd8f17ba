"""One plug-in at work: arguments read, time limited, answers remembered, its faults turned into sentences. No NATS."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from libs.contracts.tool import ToolDescription, ToolReply, ToolRequest
from libs.plugins.loading import Plugin
from libs.plugins.memory import Answers, Given, Key
from libs.plugins.outcome import failed, reply_of
from libs.plugins.plugin import PluginContext, PluginError
from libs.plugins.schema import read_arguments, sentence
from libs.plugins.threads import CallThreads, PluginThread, SameLoop, StuckError
from libs.runtime.log import get_logger

log = get_logger()

MOST_AT_ONCE = 32
START_S = 10.0
ANSWER_MARGIN_S = 0.1  # before the deadline, so that the sentence still arrives


class PluginRunner:
    """Answers the requests to one plug-in; never raises for what the plug-in does."""

    def __init__(self, plugin: Plugin, counters: Counter[str], *, in_thread: bool = True) -> None:
        self._plugin = plugin
        self.description: ToolDescription = plugin.describe()
        self._counters = counters
        self._thread = PluginThread(plugin.name) if in_thread else SameLoop()
        self._calls = CallThreads(plugin.name)
        self._answers = Answers()
        self._running: dict[Key, tuple[str, asyncio.Task[ToolReply]]] = {}

    async def start(self) -> None:
        """Let the plug-in open what it needs.

        Raises:
            Exception: whatever it raises, TimeoutError included.
        """
        await self._thread.run(self._plugin.start, START_S)

    async def stop(self) -> None:
        """Let the plug-in close what it has; a failure is logged."""
        try:
            await self._thread.run(self._plugin.stop, START_S)
        except Exception:  # a plug-in's own fault must not keep the others from stopping
            log.exception("a plug-in did not stop", tool=self.description.name)
        self._thread.close()

    async def answer(self, request: ToolRequest) -> ToolReply:
        """Carry a request out, or repeat its answer."""
        name = self.description.name
        try:
            params = read_arguments(self._plugin.parameters, request.arguments)
            arguments = _fingerprint(params)
        except ValidationError as error:
            return self._counted("refused", failed(sentence(name, error)))
        except Exception:  # a validator or a type of the plug-in's own
            log.exception("a plug-in failed at its arguments", tool=name, call=request.call)
            return self._counted("crashed", failed(f"The tool {name} failed."))
        key = (request.org, request.call, request.tool_call_id)
        if (running := self._running.get(key)) is not None and running[0] == arguments:
            self._counters["repeated"] += 1
            return await asyncio.shield(running[1])
        known = None if self.description.idempotent else self._answers.find(key)
        if running is not None or (known is not None and known.arguments != arguments):
            return self._counted("refused", failed("This tool_call_id was used for another request already."))
        if known is not None:
            return self._counted("repeated", known.reply)
        if len(self._running) >= MOST_AT_ONCE:
            return self._counted("busy", failed(f"The tool {name} is too busy at the moment."))
        task = asyncio.create_task(self._carry_out(params, request), name=f"plugin-{name}")
        self._running[key] = arguments, task
        task.add_done_callback(lambda done: self._finished(key, arguments, done))
        return await asyncio.shield(task)  # who asked may leave; a second one with the same key still gets the answer

    def _finished(self, key: Key, arguments: str, task: asyncio.Task[ToolReply]) -> None:
        self._running.pop(key, None)
        if not task.cancelled() and not self.description.idempotent:
            self._answers.put(key, Given(arguments, task.result()))

    async def _carry_out(self, params: BaseModel, request: ToolRequest) -> ToolReply:
        name = self.description.name
        left_s = (request.deadline_at - datetime.now(UTC)).total_seconds() - ANSWER_MARGIN_S
        if left_s <= 0:
            return self._counted("too_late", failed(f"The tool {name} was asked too late; nothing was done."))
        try:
            reply = await self._thread.run(
                lambda: self._execute(params, self._context(request)), min(left_s, self._plugin.timeout_s)
            )
        except TimeoutError:
            return self._counted("too_late", failed(f"The tool {name} did not answer in time; its result is unknown."))
        except StuckError as error:
            log.error("a plug-in is stuck", tool=name, problem=str(error))
            return self._counted("stuck", failed(f"The tool {name} is not available at the moment."))
        except PluginError as error:
            return self._counted("refused", failed(str(error) or f"The tool {name} failed."))
        except (Exception, asyncio.CancelledError):  # somebody else's code, which may even cancel itself
            log.exception("a plug-in failed", tool=name, call=request.call)
            return self._counted("crashed", failed(f"The tool {name} failed."))
        if not reply.ok:
            log.warning("a plug-in's result cannot be used", tool=name, call=request.call, problem=reply.error)
        return self._counted("answered" if reply.ok else "unusable", reply)

    async def _execute(self, params: BaseModel, context: PluginContext) -> ToolReply:
        """In the plug-in's own thread, the writing of its result included."""
        execute = self._plugin.execute
        result: Any
        if inspect.iscoroutinefunction(execute):
            try:
                result = await execute(params, context)
            except (SystemExit, KeyboardInterrupt) as error:  # would end the thread's loop
                raise RuntimeError(f"it tried to end the process: {error!r}") from None
        else:
            result = await self._calls.run(lambda: execute(params, context))
            if inspect.isawaitable(result):
                result = await result
        return reply_of(self.description.name, result, self._plugin.most_result_bytes)

    def _context(self, request: ToolRequest) -> PluginContext:
        return PluginContext(
            org=request.org,
            call=request.call,
            epoch=request.epoch,
            caller=request.caller,
            agent=request.agent,
            tool_call_id=request.tool_call_id,
            deadline_at=request.deadline_at,
            log=get_logger().bind(tool=self.description.name, call=request.call),
        )

    def _counted(self, what: str, reply: ToolReply) -> ToolReply:
        self._counters[what] += 1
        return reply


def _fingerprint(params: BaseModel) -> str:
    return hashlib.sha256(json.dumps(params.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
