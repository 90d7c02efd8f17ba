"""Settings of catalog_tools; the README's table is made from this class."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

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
    plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("customer_lookup", "take_message", "*"),
        description="Plug-ins to serve, by commas: included ones, names of entry points (* for all), module:Class",
    )
    tool_secrets: dict[str, SecretStr] = Field(
        {}, description='Secrets of declared tools by the names that documents use, as JSON: {"crm": "..."}'
    )
    tool_private_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Private hosts and networks that declared tools may use: crm.local,10.1.0.0/16"
    )
    crm_url: str | None = Field(
        None, description="Where customer_lookup asks: https://crm.example/{org}/customers?phone={number}"
    )
    crm_token: SecretStr | None = Field(None, description="Its bearer token")
    crm_timeout_s: Annotated[float, Field(gt=0, le=10)] = Field(
        2.0, description="How long it may take; then the table of customers is asked"
    )
    catalog_country: Annotated[str, Field(pattern="^[A-Z]{2}$")] = Field(
        "DE", description="What imported numbers without international prefix belong to"
    )

    @field_validator("plugins", "tool_private_hosts", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("crm_url")
    @classmethod
    def _with_number(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith(("http://", "https://")) or "{number}" not in value):
            raise ValueError("is a URL with {number} in it")
        return value
