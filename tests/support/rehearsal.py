"""The rehearsal server as a process of its own, for measurements that must not share one with it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from cli.checkout import ROOT

READY_TIMEOUT_S = 20.0


@asynccontextmanager
async def rehearsal_process(*scenarios: dict[str, Any]) -> AsyncIterator[str]:
    """Its URL without the `/v1`. Sessions get the first scenario; without any the server has those that it comes with.

    Raises:
        TimeoutError: it did not tell its address.
    """
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"REHEARSAL_LOG_LEVEL": "WARNING"}
        for scenario in scenarios:
            path = Path(folder) / f"{scenario['name']}.yaml"
            path.write_text(yaml.safe_dump(scenario, allow_unicode=True), "utf-8")
        if scenarios:
            chosen |= {"REHEARSAL_SCENARIOS": folder, "REHEARSAL_DEFAULT_SCENARIO": str(scenarios[0]["name"])}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("REHEARSAL_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.rehearsal", env=kept | chosen, cwd=ROOT, stdout=PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(READY_TIMEOUT_S):
                url = (await process.stdout.readline()).decode().strip()
            yield url.removesuffix("/v1")
        finally:
            process.terminate()
            await process.wait()
