"""`python -m libs.plugins [NAME | MODULE:CLASS ...]`: serve plug-ins as a process of their own, anywhere on the bus.

Without names the setting PLUGINS says which; the bus is NATS_URL.
"""

from __future__ import annotations

import sys
from functools import partial

from libs.plugins.host import PluginHost
from libs.plugins.instruments import CALLS
from libs.plugins.loading import load
from libs.plugins.settings import Settings
from libs.runtime.log import get_logger
from libs.runtime.service import Service, nobody_listens, run

log = get_logger()


def serve(names: list[str], nats_url: str | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    settings = Settings if nats_url is None else partial(Settings, nats_url=nats_url)

    async def main(service: Service, settings: Settings) -> None:
        loaded = load(names or settings.plugins)
        for problem in loaded.problems:
            log.error("a plug-in cannot be loaded", problem=problem)
        if not loaded.plugins:
            raise ConnectionError("there is no plug-in to serve")
        host = PluginHost(service.bus, loaded.plugins)
        CALLS.read_from(lambda: host.counters)
        await host.run(service.stopping, lambda: service.is_up(nobody_listens))

    return run("plugins", "pl", settings, main, streams=False)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
