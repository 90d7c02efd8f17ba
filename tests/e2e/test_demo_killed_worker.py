"""The demo with BACKEND=realtime, while the worker that has the call is killed: another one goes on, all is kept."""

from __future__ import annotations

import pytest

from tests.support.demo import LIMIT_S, demo_output


@pytest.mark.timeout(LIMIT_S + 10)
async def test_the_order_is_complete_when_the_worker_is_killed() -> None:
    output, code = await demo_output("--kill-worker")
    assert code == 0, output
