"""Writes docs/settings.md from the settings classes: `python -m cli.settings_document > docs/settings.md`."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from cli import checkout
from libs.runtime.settings import ServiceSettings
from services.ai_session.settings import Settings as AiSession
from services.browser_gateway.settings import Settings as BrowserGateway
from services.catalog_tools.settings import Settings as CatalogTools
from services.rehearsal.settings import RehearsalSettings
from services.sip_gateway.settings import Settings as SipGateway
from services.transcript_store.settings import Settings as TranscriptStore
from services.twilio_gateway.settings import Settings as TwilioGateway

HEAD = """# Settings

Generated from the settings classes; do not edit (`make docs`). Names are read from the environment, then from `.env`.
"""
CLASSES: dict[str, type[BaseSettings]] = {
    "Every service": ServiceSettings,
    "sip_gateway": SipGateway,
    "twilio_gateway": TwilioGateway,
    "browser_gateway": BrowserGateway,
    "ai_session": AiSession,
    "catalog_tools": CatalogTools,
    "transcript_store": TranscriptStore,
    "rehearsal": RehearsalSettings,
}


def settings_markdown() -> str:
    """The whole page."""
    common = set(ServiceSettings.model_fields)
    parts = [HEAD]
    for title, cls in CLASSES.items():
        prefix = str(cls.model_config.get("env_prefix") or "")
        fields = {n: f for n, f in cls.model_fields.items() if cls is ServiceSettings or n not in common}
        rows = [_row(prefix, name, field) for name, field in fields.items()]
        parts.append("\n".join([f"## {title}\n", "| name | default | what |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _row(prefix: str, name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        names = [str(choice) for choice in alias.choices if str(choice).isupper()]
    elif isinstance(alias, str):
        names = [alias.upper()]
    else:
        names = [(prefix + name).upper()]
    shown = " or ".join(f"`{n}`" for n in names)
    return f"| {shown} | {_default(field)} | {field.description or ''} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    value = field.default if field.default_factory is None else "set at the start"
    if value is None or value == "":
        return ""
    if isinstance(value, tuple | list):
        return f"`{','.join(str(part) for part in value)}`" if value else ""
    if isinstance(value, Path) and value.is_relative_to(checkout.ROOT):
        value = value.relative_to(checkout.ROOT)
    return f"`{value}`"


if __name__ == "__main__":
    print(settings_markdown(), end="")
