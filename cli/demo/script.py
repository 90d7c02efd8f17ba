"""What the caller of the demo does, and what must be true afterwards. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallerStep:
    """One clip. It is played when the agent has finished, or `interrupts_after_ms` into its answer."""

    clip: str
    interrupts_after_ms: int | None = None
    trouble_after_ms: int | None = None  # --kill-worker, --freeze-worker: so long into the answer to this clip


@dataclass(frozen=True, slots=True)
class ExpectedLine:
    """An order line: the quantity, and how its article's name begins in the sample catalogue."""

    quantity: int
    name: str


CALLEE = "bestellung"
STEPS = (
    CallerStep("bestellung-1"),
    CallerStep("bestellung-2"),
    CallerStep("bestellung-3", interrupts_after_ms=2500, trouble_after_ms=700),
    CallerStep("bestellung-4"),
    CallerStep("bestellung-5"),
)
ORDER = (
    ExpectedLine(10, "T-Stück 22 mm "),
    ExpectedLine(5, "Übergangsmuffe 22x15 "),
    ExpectedLine(20, "Bogen 90° 15 mm "),
)
OUTCOME = "ordered"
LEAST_CORRELATION = 0.9
