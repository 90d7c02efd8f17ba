"""Plug-ins as the world may bring them: good, wrong, slow, hostile."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Literal

from pydantic import BaseModel, Field

from libs.contracts.tool import ToolReply
from libs.plugins import ExternalPlugin, PluginError


class Size(BaseModel):
    value: int = Field(description="in millimetres")
    kind: Literal["inner", "outer"] = "outer"


class Params(BaseModel):
    """Not told."""

    article: str = Field(description="The article number", min_length=1)
    size: Size | None = Field(None, description="Which one")
    tags: list[Size] = []


class Stock(ExternalPlugin[Params]):
    name = "stock"
    description = "Tells how many there are."
    parameters = Params
    idempotent = True

    async def execute(self, params, context):
        return {"article": params.article, "stock": 7, "caller": context.caller}


class Counting(ExternalPlugin[Params]):
    name = "counting"
    description = "Counts its calls."
    parameters = Params

    def __init__(self):
        self.calls = 0

    async def execute(self, params, context):
        self.calls += 1
        await asyncio.sleep(0.05)
        return self.calls


class Blocking(ExternalPlugin[Params]):
    name = "blocking"
    description = "A synchronous client."

    def execute(self, params, context):
        time.sleep(0.1)
        return "slept"


class Started(Stock):
    name = "started"

    async def start(self):
        self.client = "open"

    async def execute(self, params, context):
        return self.client


class NeverStarts(Stock):
    name = "never_starts"

    async def start(self):
        raise ConnectionError("no licence")


class SlotsAway:
    pass


def cyclic():
    circle = []
    circle.append(circle)
    return circle


def deep():
    nested = []
    for _ in range(5_000):
        nested = [nested]
    return nested


def fault(behaviour):
    """A plug-in that does what it should not."""

    class Faulty(ExternalPlugin[Params]):
        name = "faulty"
        description = "Breaks."
        timeout_s = 0.3

        async def execute(self, params, context):
            return await behaviour() if asyncio.iscoroutinefunction(behaviour) else behaviour()

    return Faulty()


def raises(error):
    def run():
        raise error

    return run


async def hangs():
    await asyncio.sleep(60)


async def hangs_and_will_not_be_cancelled():
    while True:
        try:
            await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            if asyncio.get_running_loop().is_closed():
                raise


FAULTS = {
    "raises": raises(RuntimeError("boom")),
    "exits": lambda: sys.exit(3),
    "cancels itself": raises(asyncio.CancelledError()),
    "stops an iteration": raises(StopIteration()),
    "hangs": hangs,
    "hangs on": hangs_and_will_not_be_cancelled,
    "blocks": lambda: time.sleep(0.8),
    "no JSON": SlotsAway,
    "NaN": lambda: {"price": float("nan")},
    "infinite": lambda: float("inf"),
    "a cycle": cyclic,
    "deep": deep,
    "huge": lambda: "x" * 20_000,
    "half a character": lambda: "\ud800",
    "bytes": lambda: b"\xff",
}


class Refusing(Stock):
    name = "refusing"

    async def execute(self, params, context):
        raise PluginError("Es gibt keine offene Rechnung.")


class Replying(Stock):
    name = "replying"

    async def execute(self, params, context):
        return ToolReply(ok=False, error="no")
