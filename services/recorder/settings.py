"""Settings of the recorder; the only place of the service that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from libs.object_store.settings import ObjectStoreSettings


class Settings(ObjectStoreSettings):
    """Where recordings go."""

    recorder_spool: Path = Field(
        Path("var/recordings"), description="Folder for recordings in the making; recorders of a machine may share it"
    )
    recorder_capacity: Annotated[int, Field(ge=1, le=10_000)] = Field(200, description="Calls recorded at a time")
