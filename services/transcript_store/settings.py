"""Settings of transcript_store; the README's table is made from this class."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from libs.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What the store needs beside the settings of every service."""

    transcript_database_url: str = Field(
        "sqlite:///var/transcripts.db",
        description="Conversations: sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DB",
    )
    transcript_batch: Annotated[int, Field(ge=1, le=1000)] = Field(200, description="Events written at once, at most")
    transcript_ack_wait_s: Annotated[float, Field(ge=1)] = Field(
        30.0, description="After this JetStream gives an unacknowledged event again"
    )
    janitor_grace_s: Annotated[float, Field(ge=1)] = Field(
        30.0, description="A call that no live gateway lists for this long is ended"
    )
    janitor_look_s: Annotated[float, Field(gt=0)] = Field(5.0, description="How often open calls are read")
