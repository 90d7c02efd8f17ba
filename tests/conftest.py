"""The order of the files: they are given out as they come, and a long one that comes last is waited for."""

from __future__ import annotations

import gc

import pytest

LONGEST = (
    "e2e/test_demo_frozen_worker.py", "e2e/test_demo_killed_worker.py", "e2e/test_demo_live.py", "e2e/test_failover.py",
    "e2e/test_recording.py", "integration/test_compose.py", "integration/test_backends_postgres_nats.py",
    "integration/test_monitoring.py", "integration/test_pbx.py", "integration/test_sipp.py",
    "unit/ai_session/test_live.py", "conformance/test_calls.py", "unit/cli/test_call.py",
    "integration/test_stores_transcript.py", "unit/sip_gateway/test_gateway.py",
    "unit/ai_session/test_pipeline_session.py", "unit/ai_session/test_realtime.py", "unit/ai_session/test_rotation.py",
    "unit/ai_session/test_session_reconnects.py", "unit/ai_session/test_pipeline_faults.py",
    "unit/ai_session/voices/test_voice_conformance.py", "unit/twilio_gateway/test_calls.py",
    "integration/test_stores_catalog_tools.py", "unit/audio/test_stereo.py",
    "unit/ai_session/test_backend_conformance.py", "unit/ai_session/test_realtime_faults.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    first = {config.rootpath / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end: the garbage collection need not stop phones to look at them."""
    gc.collect()
    gc.freeze()
