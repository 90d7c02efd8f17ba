"""Settings of a process that serves plug-ins."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from libs.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """Which plug-ins, beside the settings of every service; a plug-in reads its own."""

    plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="Plug-ins to serve: names of entry points or module:Class, by commas; * for all installed"
    )

    @field_validator("plugins", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value
