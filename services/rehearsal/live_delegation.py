"""What a Live session hands to a Responses model: the events of its tool calls, and the history it starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.rehearsal.conversation import Item
from services.rehearsal.director import CallTool
from services.rehearsal.outputs import Frame

_INPUT_TOKENS, _TOKENS_PER_CALL = 400, 25


class Delegations:
    """The delegations of one session."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._clients: set[str] = set()

    def is_clients(self, delegation_id: str) -> bool:
        """Whether the application was asked to do this."""
        return delegation_id in self._clients

    def close(self, delegation_id: str) -> None:
        self._clients.discard(delegation_id)

    def to_client(self, offset_ms: int) -> Frame:
        """The event that asks the application for something."""
        delegation_id = self._new_id("dlg")
        self._clients.add(delegation_id)
        return self._created({"id": delegation_id, "target": "client"}, offset_ms)

    def responses(
        self, calls: Sequence[CallTool], model: str, offset_ms: int, *, garbled: bool, failed: bool
    ) -> tuple[list[Frame], list[Item]]:
        """The events of one delegated response that calls tools, and the items it leaves in the conversation."""
        delegation_id, response_id = self._new_id("dlg"), self._new_id("resp")
        about: Frame = {"id": delegation_id, "target": "responses", "response_id": response_id}
        nested: list[Frame] = [{"type": "response.created", "response": _response(response_id, model, "in_progress")}]
        items: list[Item] = []
        for index, call in enumerate([] if failed else calls):
            body: Frame = {
                "type": "function_call",
                "id": self._new_id("fc"),
                "call_id": self._new_id("call"),
                "name": call.name,
                "arguments": call.arguments[:-1] if garbled else call.arguments,
                "status": "completed",
            }
            nested.append({"type": "response.output_item.done", "output_index": index, "item": body})
            items.append(Item(id=body["id"], body=body, origin="model"))
        if failed:
            response = _response(response_id, model, "failed")
            response["error"] = {"code": "rate_limit_exceeded", "message": "Rate limit reached."}
            nested.append({"type": "response.failed", "response": response})
        else:
            response = _response(response_id, model, "completed")
            response["usage"] = _usage(len(calls))
            nested.append({"type": "response.completed", "response": response})
        events = [
            {"type": "response.event", "delegation_id": delegation_id, "event": {**event, "sequence_number": number}}
            for number, event in enumerate(nested)
        ]
        return [self._created(about, offset_ms), *events], items

    def _created(self, delegation: Frame, offset_ms: int) -> Frame:
        delegation = {"type": "delegation", **delegation}
        return {"type": "session.delegation.created", "delegation": delegation, "offset_ms": offset_ms}


def history_items(messages: Sequence[Frame], new_id: Callable[[str], str]) -> list[Item]:
    """The messages of ``session.input`` as items of the conversation."""
    items: list[Item] = []
    for message in messages:
        body = {"status": "completed", **message, "type": "message", "id": message.get("id") or new_id("item")}
        items.append(Item(id=body["id"], body=body, origin="client", text=message["content"][0]["text"]))
    return items


def place_of_call(items: Sequence[Item], call_id: str | None) -> str | None:
    """Behind which item a replayed tool call or its output belongs: the message of the history that names its id.

    A live session's history holds messages only; calls are replayed to its Responses model, which keeps the order.
    """
    if not call_id:
        return None
    of_call = [one for one in items if one.body.get("call_id") == call_id or call_id in one.text]
    return of_call[-1].id if of_call else None


def _response(response_id: str, model: str, status: str) -> Frame:
    return {"id": response_id, "object": "response", "model": model, "status": status, "output": [], "usage": None}


def _usage(calls: int) -> Frame:
    output = _TOKENS_PER_CALL * calls
    return {
        "input_tokens": _INPUT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": _INPUT_TOKENS + output,
    }
