"""The order of the conversations: files are given out as they come, and a long one that comes last is waited for."""

from __future__ import annotations

import pytest

LONGEST = ("test_demo_frozen_worker.py", "test_demo_killed_worker.py", "test_demo_live.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
