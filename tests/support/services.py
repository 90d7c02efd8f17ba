"""How tests that need servers get them: TEST_SERVICES=docker, local or auto.

`docker`: containers of the official images, as production has them; a missing daemon is a failure (CI sets this).
`local`: processes; what only containers can show is skipped. `auto`, the default: docker where a daemon answers and the
images are there, else local, and the reason is said.
"""

from __future__ import annotations

import functools
import os
import subprocess
from typing import Literal

import pytest

Mode = Literal["docker", "local"]
NATS_IMAGE, POSTGRES_IMAGE, PYTHON_IMAGE = "nats:2.15-alpine", "postgres:17-alpine", "python:3.13-slim"
IMAGES = (NATS_IMAGE, POSTGRES_IMAGE)
HOW_TO_BUILD = "pull it, or build a stand-in with tests/support/images/build.sh"


@functools.cache
def missing(*images: str, compose: bool = False) -> str | None:
    """What is not there of docker, as a sentence; None when all is."""
    if not _succeeds("docker", "info"):
        return "no docker daemon answers"
    if compose and not (_succeeds("docker", "compose", "version") and _succeeds("docker", "buildx", "version")):
        return "`docker compose` or buildx is not installed (tests/support/images/compose.sh)"
    absent = [image for image in images if not _succeeds("docker", "image", "inspect", image)]
    return f"no image {', '.join(absent)}: {HOW_TO_BUILD}" if absent else None


def mode() -> Mode:
    """What was asked for, or what `auto` comes to here.

    Raises:
        ValueError: TEST_SERVICES is something else.
    """
    wanted = os.environ.get("TEST_SERVICES", "auto")
    if wanted == "docker" or (wanted == "auto" and missing(*IMAGES) is None):
        return "docker"
    if wanted in ("auto", "local"):
        return "local"
    raise ValueError(f"TEST_SERVICES={wanted}: one of docker, local, auto")


def needs_docker(*images: str, compose: bool = False) -> None:
    """Skip with the reason where containers cannot be had, or are not wanted; fail where they were promised."""
    wanted = os.environ.get("TEST_SERVICES", "auto")
    if wanted == "local":
        pytest.skip("TEST_SERVICES=local: no containers wanted")
    if (reason := missing(*images, compose=compose)) is not None:
        if wanted == "docker":
            pytest.fail(f"TEST_SERVICES=docker, but {reason}")
        pytest.skip(reason)


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
