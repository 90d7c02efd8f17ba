"""`python -m cli`: the same as `callbus`."""

from __future__ import annotations

import sys
from io import TextIOWrapper

INTERRUPTED = 130  # `cli.exit_codes`, which may not be loaded yet


def main() -> None:
    """Run a command; Ctrl-C while its modules are still being read leaves as quietly as any later one.

    What the terminal's or the pipe's encoding has no character for is a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        from cli.main import app
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    app()


if __name__ == "__main__":
    main()
