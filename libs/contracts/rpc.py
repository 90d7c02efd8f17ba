"""Queries between services: request and reply documents of `v1.rpc.<service>.<verb>`.

A reply is an `RpcReply` whose `data` has the shape that the verb's docstring in the service names.
"""

from __future__ import annotations

from typing import Any

from libs.contracts.model import Message


class RpcRequest(Message):
    """Parameters of a query; each service validates its own."""

    org: str | None = None
    parameters: dict[str, Any] = {}


class RpcReply(Message):
    """`data` when ok, else one sentence in `error`."""

    ok: bool
    data: Any = None
    error: str = ""
