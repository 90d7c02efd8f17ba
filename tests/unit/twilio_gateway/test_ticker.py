"""One ticker for all calls: 50 ticks a second each, and one call's defect is its own."""

import asyncio

from services.twilio_gateway.ticker import Ticker


class Call:
    def __init__(self, fails_at: int | None = None) -> None:
        self.ticks: list[float] = []
        self.fails_at = fails_at

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        if len(self.ticks) == self.fails_at:
            raise RuntimeError("a defect")


async def test_a_defect_of_one_call_silences_no_other():
    failed, lateness = [], []
    ticker = Ticker(lambda late_s, now: lateness.append(late_s), failed.append)
    good, bad = Call(), Call(fails_at=3)
    ticker.add(good)
    ticker.add(bad)
    async with asyncio.timeout(5):
        while len(good.ticks) < 20:  # noqa: ASYNC110  a count has no event
            await asyncio.sleep(0.01)
    ticker.close()
    assert len(bad.ticks) == 3
    assert failed == [bad]
    assert len(lateness) == len(good.ticks)


async def test_without_calls_it_stands_still_and_goes_on_with_the_next():
    lateness = []
    ticker = Ticker(lambda late_s, now: lateness.append(late_s), lambda call: None)
    call = Call()
    ticker.add(call)
    ticker.remove(call)
    await asyncio.sleep(0.1)
    assert len(lateness) <= 1
    ticker.add(call)
    async with asyncio.timeout(5):
        while not call.ticks:  # noqa: ASYNC110  a count has no event
            await asyncio.sleep(0.01)
    ticker.close()
