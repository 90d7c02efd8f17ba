"""How a trunk can be."""

from __future__ import annotations

from typing import Literal

TrunkStateName = Literal["registered", "registering", "failed", "unregistered", "unregistering", "ready", "unresolved"]
