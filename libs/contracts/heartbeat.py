"""Who is alive and how busy: every 100 ms from each worker and gateway; the call list once a second."""

from __future__ import annotations

from libs.contracts.model import Message


class WorkerHeartbeat(Message):
    """A worker's load. `calls` counts accepted calls, set-up included."""

    wk: str
    calls: int
    capacity: int
    draining: bool = False
    load: float = 0.0
    call_list: tuple[str, ...] | None = None


class GatewayHeartbeat(Message):
    """A gateway's load and the calls that it owns."""

    gw: str
    calls: int
    capacity: int
    draining: bool = False
    call_list: tuple[str, ...] | None = None


class CallEntry(Message):
    """KV `calls`: the gateway's copy of who owns a call, for everyone else (R4)."""

    call: str
    org: str
    gw: str
    wk: str | None
    epoch: int
    phase: str
    agent: str
    caller: str = ""
    callee: str = ""
    offered_at: str = ""
