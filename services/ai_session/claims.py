"""Which offers this worker takes, and which sessions a release ends. Pure: no bus, no tasks (R1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accepted:
    """The offer is taken. `replaces` is this worker's own older session of the same call, if any."""

    replaces: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The offer is not taken; `reason` goes back to the gateway."""

    reason: str


class Claims:
    """The calls that this worker has accepted, by call id, with their epochs."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.draining = False
        self._epochs: dict[str, int] = {}
        self._released: dict[str, int] = {}  # newest epoch taken from us; a late offer below it is stale

    @property
    def count(self) -> int:
        """Accepted calls."""
        return len(self._epochs)

    @property
    def calls(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(self._epochs)

    def offer(self, call: str, epoch: int) -> Accepted | Refused:
        """Decide an offer."""
        if self.draining:
            return Refused("draining")
        ours = self._epochs.get(call)
        if epoch <= max(ours if ours is not None else -1, self._released.get(call, -1)):
            return Refused("stale_epoch")
        if ours is None and len(self._epochs) >= self.capacity:
            return Refused("at_capacity")
        self._epochs[call] = epoch
        return Accepted(ours)

    def release(self, call: str, epoch: int) -> bool:
        """The gateway took the call from us up to `epoch`; True when our session of it must end."""
        self._remember_release(call, epoch)
        ours = self._epochs.get(call)
        if ours is None or ours > epoch:
            return False
        del self._epochs[call]
        return True

    def ended(self, call: str, epoch: int) -> None:
        """A session is over."""
        if self._epochs.get(call) == epoch:
            del self._epochs[call]

    def _remember_release(self, call: str, epoch: int) -> None:
        self._released[call] = max(epoch, self._released.pop(call, -1))
        if len(self._released) > 1000:  # an offer that old cannot still be under way
            del self._released[next(iter(self._released))]
