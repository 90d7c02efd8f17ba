"""`python -m cli`: the same as `callbus`."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # `cli.exit_codes`, which may not be loaded yet


def main() -> None:
    """Run a command; Ctrl-C while its modules are still being read leaves as quietly as any later one."""
    try:
        from cli.main import app
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    app()


if __name__ == "__main__":
    main()
