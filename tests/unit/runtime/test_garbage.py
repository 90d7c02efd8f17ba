"""Full collections come when nobody hears them."""

import asyncio
import subprocess
import sys

from libs.runtime import garbage
from libs.runtime.garbage import FULL_EVERY_S, QUIET_EVERY_S, FullCollections

A_SERVICE = """
import gc
from libs.runtime import garbage

full = 0
def told(phase, about):
    global full
    full += about["generation"] == 2 and phase == "start"

kept = [[] for _ in range(50_000)]
garbage.settle()
gc.callbacks.append(told)
assert gc.get_freeze_count() > 50_000
kept += [[[]] for _ in range(300_000)]  # far more than a quarter of what there was
cycles = []
for _ in range(100_000):
    cycles = [cycles[-1:] if cycles else []]
    cycles.append(cycles)
print(full, gc.get_count()[2] > 0)
gc.collect()
print(full)
"""


def test_once_settled_only_what_is_asked_for_is_a_full_collection():
    ran = subprocess.run([sys.executable, "-c", A_SERVICE], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["0", "True", "1"]


def test_without_calls_it_comes_every_minute():
    full = FullCollections(100.0)
    assert [at for at in range(100, 400, 5) if full.is_due(at, is_quiet=True)] == [160, 220, 280, 340]
    assert QUIET_EVERY_S == 60


def test_during_calls_it_waits_for_their_end():
    full = FullCollections(0.0)
    assert not full.is_due(FULL_EVERY_S - 1, is_quiet=False)
    assert full.is_due(FULL_EVERY_S - 1, is_quiet=True)


def test_where_calls_never_end_it_waits_no_longer_than_half_an_hour():
    full = FullCollections(0.0)
    assert [at for at in range(0, 4000, 5) if full.is_due(at, is_quiet=False)] == [1800, 3600]


async def test_as_long_as_somebody_listens_nothing_is_collected(monkeypatch):
    looks, is_quiet, collected = 0, False, asyncio.Event()
    looked = asyncio.Event()

    def ask() -> bool:
        nonlocal looks
        looks += 1
        if looks == 20:
            looked.set()
        return is_quiet

    monkeypatch.setattr(garbage, "LOOK_S", 0.001)
    monkeypatch.setattr(garbage, "QUIET_EVERY_S", 0.0)
    monkeypatch.setattr(garbage.gc, "collect", collected.set)
    running = asyncio.create_task(garbage.collect_forever(ask))
    async with asyncio.timeout(5):
        await looked.wait()
        assert not collected.is_set()
        is_quiet = True
        await collected.wait()
    running.cancel()
