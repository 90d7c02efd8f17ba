"""Prometheus beside `callbus up`, with the rules of this folder: `python -m deploy.prometheus.beside_up`.

Compose gives the services names, `callbus up` gives them ports: otherwise the configuration is the same. The process
becomes Prometheus, which has to be installed; Ctrl-C ends it. Its data are in `var/prometheus`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from cli.settings import CliSettings
from cli.state import running

FOLDER = Path(__file__).parent
NOT_SERVICES = {"nats-server"}


def with_addresses(targets: Mapping[str, Sequence[str]], alertmanagers: Sequence[str] = ()) -> dict[str, Any]:
    """prometheus.yml with these addresses by service in the place of what its names would be resolved to.

    Raises:
        ValueError: it looks for no service of such a name.
    """
    config: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": list(alertmanagers)}]}]
    services = config["scrape_configs"][0]
    config["scrape_configs"] = [services]
    [discovery] = services.pop("dns_sd_configs")
    if unknown := targets.keys() - set(discovery["names"]):
        raise ValueError(f"prometheus.yml does not look for {', '.join(sorted(unknown))}")
    services["static_configs"] = [
        {"targets": list(addresses), "labels": {"__meta_dns_name": name}} for name, addresses in targets.items()
    ]
    return config


def by_service(health_ports: Mapping[str, int]) -> dict[str, list[str]]:
    """Addresses by service, of processes by their names in `callbus up` (`ai_session-1`)."""
    found: dict[str, list[str]] = {}
    for name, port in health_ports.items():
        service = name.partition("-")[0]
        if name not in NOT_SERVICES:
            found.setdefault(service, []).append(f"127.0.0.1:{port}")
    return found


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Become Prometheus.

    Raises:
        SystemExit: that cannot be; a sentence says why.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.prometheus.beside_up", description=__doc__)
    parser.add_argument("--port", type=int, default=9090, help="where Prometheus listens, on loopback")
    port = parser.parse_args(arguments).port
    settings = CliSettings()
    state = running(settings.state_file)
    if state is None:
        sys.exit("`callbus up` is not running here")
    program = shutil.which("prometheus")
    if program is None:
        sys.exit("Prometheus is not installed (Debian: apt install prometheus)")
    file = settings.state_file.with_name("prometheus.yml")
    file.write_text(yaml.safe_dump(with_addresses(by_service(state.health_ports))), "utf-8")
    print(f"Prometheus: http://127.0.0.1:{port}", flush=True)  # noqa: T201  a command line
    os.execv(
        program,
        [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={settings.callbus_var / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
    )


if __name__ == "__main__":
    main()
