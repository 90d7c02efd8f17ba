"""The common shape of JSON messages: frozen, unknown fields ignored, a schema version in each."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class Message(BaseModel):
    """Ancestor of all JSON messages. A newer sender's fields are ignored, a missing one is an error."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """UTF-8 JSON, as it goes on the bus."""
        return self.model_dump_json().encode()
