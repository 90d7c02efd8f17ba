"""The demo with BACKEND=pipeline, while the worker that has the call freezes, and thaws later: the order is intact."""

from __future__ import annotations

import pytest

from tests.support.demo import LIMIT_S, demo_output


@pytest.mark.timeout(LIMIT_S + 10)
async def test_the_order_is_complete_when_the_worker_freezes_and_thaws() -> None:
    output, code = await demo_output("--backend", "pipeline", "--freeze-worker")
    assert code == 0, output
