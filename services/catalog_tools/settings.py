"""Settings of catalog_tools; the README's table is made from this class."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from libs.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What the tools need beside the settings of every service."""

    catalog_database_url: str = Field(
        "sqlite:///var/catalog.db",
        description="Products and orders: sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DB",
    )
    catalog_refresh_s: Annotated[float, Field(gt=0)] = Field(
        5.0, description="How often another replica's import is looked for, and unpublished orders"
    )
    catalog_concurrency: Annotated[int, Field(ge=1)] = Field(
        32, description="Tool calls worked on at the same time; more wait, within their deadline"
    )
