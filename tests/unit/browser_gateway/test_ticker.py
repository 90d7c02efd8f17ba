"""One ticker for all pages: a defect costs one call, and nothing ticks without calls."""

import asyncio

from services.browser_gateway.ticker import Ticker


class Served:
    def __init__(self, fails_at: int = 10**9) -> None:
        self.ticks = 0
        self.fails_at = fails_at
        self.failed = False

    def tick(self, _: float) -> None:
        self.ticks += 1
        if self.ticks >= self.fails_at:
            raise RuntimeError("a defect")

    def media_failed(self) -> None:
        self.failed = True


async def test_a_defect_in_one_call_does_not_silence_the_others():
    ticker, good, bad = Ticker(lambda *_: None), Served(), Served(fails_at=2)
    ticker.add(bad)
    ticker.add(good)
    async with asyncio.timeout(5):
        while good.ticks < 6:  # noqa: ASYNC110  a plain counter
            await asyncio.sleep(0.01)
    assert (bad.ticks, bad.failed, good.failed) == (2, True, False)
    ticker.close()


async def test_it_stands_still_without_calls_and_starts_again():
    lateness = []
    ticker, served = Ticker(lambda late_s, _: lateness.append(late_s)), Served()
    ticker.add(served)
    ticker.remove(served)
    await asyncio.sleep(0.07)
    assert (served.ticks, len(lateness)) == (0, 1)
    ticker.add(served)
    async with asyncio.timeout(5):
        while served.ticks < 2:  # noqa: ASYNC110  a plain counter
            await asyncio.sleep(0.01)
    ticker.close()
