"""Programs that play audio, where they are installed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from cli.errors import CliError


def installed(players: Sequence[tuple[str, ...]], otherwise: str) -> tuple[str, ...]:
    """The first of these commands whose program is here.

    Raises:
        CliError: none is; the sentence says what to do `otherwise`.
    """
    for player in players:
        if shutil.which(player[0]):
            return player
    names = ", ".join(player[0] for player in players)
    raise CliError(f"nothing here can play audio ({names}): {otherwise}")
