"""Writes docs/settings.md and .env.example from the settings classes.

python -m cli.settings_document > docs/settings.md; python -m cli.settings_document env > .env.example
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from cli import checkout
from libs.runtime.settings import ServiceSettings
from services.ai_session.settings import Settings as AiSession
from services.browser_gateway.settings import Settings as BrowserGateway
from services.catalog_tools.settings import Settings as CatalogTools
from services.recorder.settings import Settings as Recorder
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
    "recorder": Recorder,
    "rehearsal": RehearsalSettings,
}

# What only `callbus up` and deploy/compose.yaml read: name, default, what.
OF_THE_COMMAND = (("CALLBUS_VAR", "var", "Where `callbus up` keeps databases, logs and its state"),)
OF_COMPOSE = (
    ("COMPOSE_PROFILES", "", "What runs: rehearsal or openai; monitoring, twilio"),
    ("CALLBUS_VERSION", "dev", "Tag of the images"),
    ("SIP_PUBLISH_HOST", "127.0.0.1", "Address of this machine that takes SIP and RTP; telephones elsewhere: 0.0.0.0"),
    ("NATS_PUBLISH_PORT", "4222", "Port of the bus on loopback"),
    *(
        (f"NATS_{user}_PASSWORD", "", f"The bus: password of the user {user.lower()}, beginning with a letter")
        for user in ("GATEWAY", "BROWSER", "WORKER", "TOOLS", "STORE", "RECORDER", "LOCAL")
    ),
    ("POSTGRES_PASSWORD", "", "Password of the database; letters and digits"),
    ("CALLBUS_CONFIG", "./config", "Folder of agents and routes that is published at each start; seen from deploy/"),
    ("CALLBUS_SCENARIOS", "./config/scenarios", "Folder of what the rehearsal says"),
    ("REHEARSAL_PUBLISH_PORT", "0", "Port of the rehearsal on loopback; 0 picks a free one"),
    ("PROMETHEUS_PUBLISH_PORT", "9090", "Port of Prometheus on loopback"),
    ("ALERTMANAGER_PUBLISH_PORT", "9093", "Port of Alertmanager on loopback"),
    ("GRAFANA_PUBLISH_PORT", "3000", "Port of Grafana on loopback"),
    ("GRAFANA_PASSWORD", "", "Grafana: password of the user admin"),
    ("BUILD_CA_FILE", "/dev/null", "An authority (PEM) for package downloads while images are built"),
)
ENV_HEAD = """\
# Copy to .env and fill in what you have; everything is optional: what follows the sign is the default, unless the line
# above it says otherwise. Without SIP_SERVER or a key `callbus up` and `docker compose up` start all the same and say
# what is simulated. Names set in the environment win over this file. Containers do not take from here what is their
# own: NATS_URL, the addresses that services listen on, RECORDER_SPOOL.
# Generated from the settings classes; do not edit (`make docs`). docs/settings.md has the same as tables.
#
# To begin with:
#   a provider   SIP_SERVER, SIP_USERNAME, SIP_PASSWORD (sipgate: sipconnect.sipgate.de, a user such as 1234567t0)
#   a model      OPENAI_API_KEY
#   behind NAT   SIP_PUBLIC_HOST, RTP_PORTS
#   containers   COMPOSE_PROFILES, and passwords before anything but this machine can reach them
"""
ENV_WIDTH = 118
_FILLED = re.compile(r"^ +([A-Z_]+): \$\{\1:-(.+)\}(?: #.*)?$", re.M)  # NAME: ${NAME:-default} in compose.yaml
_INNER = re.compile(r"\$\{(\w+)[^}]*\}")


def in_containers() -> dict[str, str]:
    """The defaults that deploy/compose.yaml has for settings; a name in them stands for its value."""
    text = (checkout.ROOT / "deploy" / "compose.yaml").read_text("utf-8")
    return {name: _INNER.sub(r"\1", value) for name, value in _FILLED.findall(text)}


def settings_markdown() -> str:
    """The whole page."""
    parts, elsewhere = [HEAD], in_containers()
    for title, cls in CLASSES.items():
        prefix = str(cls.model_config.get("env_prefix") or "")
        derived = issubclass(cls, ServiceSettings) and cls is not ServiceSettings
        common = ServiceSettings.model_fields if derived else {}
        fields = {n: f for n, f in cls.model_fields.items() if n not in common}
        rows = [_row(_names(prefix, name, field), field, elsewhere) for name, field in fields.items()]
        parts.append(_table(title, rows))
    for title, names in (("callbus up", OF_THE_COMMAND), ("docker compose (deploy/compose.yaml)", OF_COMPOSE)):
        rows = [f"| `{name}` | {f'`{value}`' if value else ''} | {what} |" for name, value, what in names]
        parts.append(_table(title, rows))
    return "\n".join(parts)


def example_environment() -> str:
    """`.env.example`: each name once, as a comment, with its default; a secret has none."""
    seen, elsewhere = set[str](), in_containers()
    parts = [ENV_HEAD]
    for title, cls in CLASSES.items():
        parts.append(_env_title(title))
        prefix = str(cls.model_config.get("env_prefix") or "")
        for name, field in cls.model_fields.items():
            names = _names(prefix, name, field)
            if names[0] not in seen:
                seen.add(names[0])
                other = elsewhere.get(names[0], _plain(field))
                note = f"# In containers: {other}\n" if other != _plain(field) else ""
                parts.append(_env_lines(names[0], _plain(field), _explained(field, names), note))
    for title, rows in (("callbus up", OF_THE_COMMAND), ("docker compose (deploy/compose.yaml)", OF_COMPOSE)):
        parts.append(_env_title(title))
        parts += [_env_lines(name, value, what) for name, value, what in rows]
    return "".join(parts)


def _row(names: list[str], field: FieldInfo, elsewhere: Mapping[str, str]) -> str:
    other = elsewhere.get(names[0], _plain(field))
    defaults = [_shown(field), f"in containers `{other}`" if other != _plain(field) else ""]
    shown = (" or ".join(f"`{name}`" for name in names), "; ".join(filter(None, defaults)), field.description or "")
    return f"| {' | '.join(shown)} |"


def names_of(settings: type[BaseSettings]) -> list[list[str]]:
    """The variables of each setting of a class, those of its parents included; the first name is the usual one."""
    prefix = str(settings.model_config.get("env_prefix") or "")
    return [_names(prefix, name, field) for name, field in settings.model_fields.items()]


def _table(title: str, rows: list[str]) -> str:
    return "\n".join([f"## {title}\n", "| name | default | what |", "|---|---|---|", *rows]) + "\n"


def _env_title(title: str) -> str:
    return f"\n# -- {title} ".ljust(ENV_WIDTH, "-") + "\n"


def _env_lines(name: str, value: str, what: str, note: str = "") -> str:
    comment = textwrap.wrap(what, ENV_WIDTH, initial_indent="# ", subsequent_indent="#   ") if what else []
    return "".join(f"{line}\n" for line in comment) + f"{note}#{name}={value}\n"


def _explained(field: FieldInfo, names: list[str]) -> str:
    what = field.description or ""
    also = f" (also read as {', '.join(names[1:])})" if len(names) > 1 else ""
    return f"{what}{also}{' - must be set where this service runs' if field.is_required() else ''}"


def _names(prefix: str, name: str, field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices if str(choice).isupper()]
    if isinstance(alias, str):
        return [alias.upper()]
    return [(prefix + name).upper()]


def _plain(field: FieldInfo) -> str:
    """The default as it would be written into the environment."""
    value = None if field.is_required() or field.default_factory is not None else field.default
    if value is None or isinstance(value, SecretStr):
        return ""
    if isinstance(value, tuple | list):
        return ",".join(str(part) for part in value)
    if isinstance(value, Path) and value.is_relative_to(checkout.ROOT):
        value = value.relative_to(checkout.ROOT)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    if field.default_factory is not None:
        return "`set at the start`"
    value = str(field.default) if isinstance(field.default, bool) else _plain(field)
    return f"`{value}`" if value else ""


if __name__ == "__main__":
    print(example_environment() if sys.argv[1:] == ["env"] else settings_markdown(), end="")
