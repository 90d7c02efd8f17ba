"""The metrics of the object store, for whoever uses it."""

from __future__ import annotations

from libs.runtime.metrics import counter, one_of

OPERATIONS = ("open", "put", "get", "head", "delete", "list", "write")
REQUESTS = counter(
    "callbus_object_store_requests_total",
    "What was asked of the object store; `absent`: there is no such object",
    operation=one_of(*OPERATIONS),
    outcome=one_of("done", "absent", "failed"),
)
