"""KV `slots`: places within the limits of organisations, exact over several gateways."""

from __future__ import annotations

from libs.runtime.bus import Bus


class Slots:
    """`run()` is one task of the gateway's TaskGroup; `take` and `free` are the calls'."""

    def __init__(self, bus: Bus, gw: str) -> None:
        self._bus = bus
        self._gw = gw
