"""The demo with BACKEND=live."""

from __future__ import annotations

import pytest

from tests.support.demo import LIMIT_S, demo_output


@pytest.mark.timeout(LIMIT_S + 10)
async def test_the_order_is_complete_with_the_backend_live() -> None:
    output, code = await demo_output("--backend", "live")
    assert code == 0, output
