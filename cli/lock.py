"""One `up` per directory: a lock that lasts as long as its process, whatever ends it.

A pid file proves nothing between a look and a start; flock(2) decides in one step, and the kernel lets go of it when
the process dies. Children do not inherit it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cli.errors import CliError


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock while the block lasts.

    Raises:
        CliError: another process holds it.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "?"
            raise CliError(f"callbus is already running here (pid {pid}): end it with `callbus down`") from None
        with suppress(OSError):  # a full disk: the lock holds all the same, it only does not say whose it is
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """The pid of the process that holds the lock, or None when nobody does, or does not say."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.pread(descriptor, 20, 0)
        return int(said) if said.isdigit() else None
    else:
        return None
    finally:
        os.close(descriptor)
