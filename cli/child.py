"""Starting children that cannot outlive their supervisor, even one that is killed with SIGKILL.

Linux sends a child the signal that it asked for when its parent dies (prctl PR_SET_PDEATHSIG, prctl(2));
the wish survives exec. Elsewhere children rely on the supervisor's orderly end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def dies_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` for subprocess. The C library is loaded here, in the parent: after fork only calls are made."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl: nobody would tell us
            os._exit(1)

    return ask
