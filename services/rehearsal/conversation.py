"""The items of a conversation and what the server believes was heard of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from services.rehearsal.outputs import Frame
from services.rehearsal.validation import ClientEventError

Origin = Literal["client", "caller", "idle", "model"]


@dataclass(slots=True)
class Item:
    """One conversation item. ``body`` is its wire form without audio.

    ``origin`` tells who made it: the client (replay), the caller's audio, an idle timeout, or the model.
    ``audio`` is the complete PCM16 at 8 kHz that the model speaks, ``sent_ms`` how much of it went out.
    """

    id: str
    body: Frame
    origin: Origin
    text: str = ""
    audio_ms: float = 0.0
    audio: bytes = b""
    sent_ms: float = 0.0
    truncated_at_ms: int | None = None
    deleted: bool = False
    content_parts: int = 1

    @property
    def kind(self) -> str:
        return str(self.body["type"])

    @property
    def role(self) -> str | None:
        return self.body.get("role")

    @property
    def is_user_turn(self) -> bool:
        """Whether this is something the caller said; an idle timeout's silence is not."""
        return self.kind == "message" and self.role == "user" and self.origin != "idle"

    @property
    def is_assistant_message(self) -> bool:
        return self.kind == "message" and self.role == "assistant"

    @property
    def is_assistant_audio(self) -> bool:
        return self.origin == "model" and self.is_assistant_message and bool(self.audio)

    @property
    def is_unfinished(self) -> bool:
        """Cut off by a barge-in, a cancel or a truncation."""
        return self.body.get("status") == "incomplete" or self.truncated_at_ms is not None

    @property
    def heard_ms(self) -> float:
        """What the server believes the caller heard."""
        if self.deleted:
            return 0.0
        return self.sent_ms if self.truncated_at_ms is None else float(self.truncated_at_ms)


@dataclass(slots=True)
class Conversation:
    """Items in order. Deleted ones stay in ``removed`` for the ground truth."""

    items: list[Item] = field(default_factory=list)
    removed: list[Item] = field(default_factory=list)

    def find(self, item_id: str) -> Item | None:
        return next((item for item in self.items if item.id == item_id), None)

    @property
    def turn(self) -> int:
        """How many times the caller has spoken, replayed messages included."""
        return sum(item.is_user_turn for item in self.items)

    @property
    def has_assistant_audio(self) -> bool:
        return any(item.is_assistant_audio and item.sent_ms for item in self.items)

    def add(self, item: Item, *, after: str | None = None) -> str | None:
        """Insert ``item`` at the end, after the item ``after``, or first (``"root"``).

        Returns the id of the item before it. Raises ClientEventError for a duplicate or unknown id.
        """
        if self.find(item.id) is not None:
            raise ClientEventError(
                f"Error adding item: the item with id '{item.id}' already exists.",
                code="item_create_duplicate_item_id",
                param="item.id",
            )
        position = len(self.items)
        if after == "root":
            position = 0
        elif after is not None:
            previous = self.find(after)
            if previous is None:
                raise ClientEventError(
                    f"Previous item with id '{after}' not found.",
                    code="item_create_invalid_previous_item_id",
                    param="previous_item_id",
                )
            position = self.items.index(previous) + 1
        self.items.insert(position, item)
        return self.items[position - 1].id if position else None

    def delete(self, item_id: str) -> None:
        """Remove an item; raises ClientEventError when it does not exist."""
        item = self._existing(item_id, "delete")
        item.deleted = True
        self.items.remove(item)
        self.removed.append(item)

    def retrieve(self, item_id: str) -> Item:
        return self._existing(item_id, "retrieve")

    def truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> Item:
        """Cut an assistant's audio to what was heard, and forget its transcript.

        Raises ClientEventError with the API's own words where it refuses.
        """
        item = self._existing(item_id, "truncate")
        if not item.is_assistant_message or item.origin != "model" or not item.sent_ms:
            raise ClientEventError(
                "Only model output audio messages can be truncated",
                code="unsupported_content_type",
                param="item_id",
            )
        if content_index != 0:
            raise ClientEventError(
                f"Content index {content_index} is out of range.", code="invalid_value", param="content_index"
            )
        have_ms = int(item.heard_ms)
        if audio_end_ms < 0:
            raise ClientEventError(
                "Invalid 'audio_end_ms': expected a value >= 0.", code="invalid_value", param="audio_end_ms"
            )
        if audio_end_ms > have_ms:
            raise ClientEventError(
                f"Audio content of {have_ms}ms is already shorter than {audio_end_ms}ms",
                code="invalid_value",
                param="audio_end_ms",
            )
        item.truncated_at_ms = audio_end_ms
        # The server cannot tell which words fit: it erases the transcript (API reference, item.truncate).
        item.body["content"] = [{"type": "output_audio"}]
        return item

    def _existing(self, item_id: str, verb: str) -> Item:
        item = self.find(item_id)
        if item is None:
            raise ClientEventError(
                f"Error {verb[:-1]}ing item: the item with id '{item_id}' does not exist.",
                code=f"item_{verb}_invalid_item_id",
                param="item_id",
            )
        return item


def client_item(fields: Frame, item_id: str) -> Item:
    """An item made by ``conversation.item.create``.

    Raises ClientEventError for assistant audio, which cannot be created by a client.
    """
    body: dict[str, Any] = {"object": "realtime.item", "status": "completed", **fields, "id": item_id}
    content = fields.get("content") or []
    for index, part in enumerate(content):
        needed = {"output_text": "text", "input_text": "text", "output_audio": "text", "input_audio": "audio"}
        name = needed.get(part.get("type"))
        if name is not None and part.get(name) is None:
            raise ClientEventError(
                f"Missing required parameter: 'item.content[{index}].{name}'.",
                code="missing_required_parameter",
                param=f"item.content[{index}].{name}",
            )
    text = " ".join(filter(None, (part.get("text") or part.get("transcript") for part in content)))
    return Item(id=item_id, body=body, origin="client", text=text, content_parts=len(content))
