"""A gateway that stalls judges nobody (R3): what workers answered meanwhile counts."""

import asyncio
import threading
import time
from contextlib import contextmanager

from tests.support.fake_worker import FakeWorker, accept


@contextmanager
def elsewhere(url, on_offer):
    """A worker with a loop of its own, which goes on while ours stands still."""
    made, over = [], threading.Event()
    there = threading.Event()

    async def work():
        async with FakeWorker(url, on_offer=on_offer) as worker:
            made.append(worker)
            there.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    try:
        assert there.wait(5)
        yield made[0]
    finally:
        over.set()
        thread.join()


async def test_an_offer_that_was_accepted_while_we_stalled_is_accepted(server, gateway):
    loop = asyncio.get_running_loop()

    def stall_us(worker, offer):
        loop.call_soon_threadsafe(time.sleep, 0.2)  # longer than an offer's time
        time.sleep(0.05)  # the stall has begun: the answer comes in the middle of it
        return accept(worker, offer)

    with elsewhere(server.url, stall_us) as worker:
        await gateway.knows(worker)
        shell, _ = await gateway.talking()
        assert (shell.leg.wk, shell.leg.epoch) == (worker.wk, 1)
        assert worker.releases.empty()
