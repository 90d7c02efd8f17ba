"""`make demo-compose`: the whole platform in containers, the demo's call from outside, its checklist.

Builds the images of this checkout, ends and removes everything with its volumes, whatever happens.
"""

from __future__ import annotations

import sys

from cli.demo.conversation import Place, verdict
from cli.demo.external import call_elsewhere
from cli.errors import CliError
from cli.invocation import console, run
from tests.support.compose import stack
from tests.support.services import NATS_IMAGE, POSTGRES_IMAGE, PYTHON_IMAGE, missing


async def demo() -> bool:
    """Whether everything held."""
    if (reason := missing(NATS_IMAGE, POSTGRES_IMAGE, PYTHON_IMAGE, compose=True)) is not None:
        raise CliError(f"the demo in containers needs docker and its compose: {reason}")
    console.print("building the images and starting everything …", style="dim")
    async with stack() as running:
        console.print(f"project {running.project}, sip:bestellung@127.0.0.1:{running.sip_port}", style="dim")
        checks = await call_elsewhere(running.nats_url, Place(running.sip_port, running.rehearsal_url), console)
        return verdict(console, checks)


if __name__ == "__main__":
    sys.exit(0 if run(demo()) else 1)
