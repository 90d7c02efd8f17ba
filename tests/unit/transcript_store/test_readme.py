"""The README's settings table is the settings class."""

from pathlib import Path

from libs.runtime.settings import ServiceSettings
from services.transcript_store import settings
from services.transcript_store.settings import Settings


def settings_table(model: type[ServiceSettings]) -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if name not in ServiceSettings.model_fields:
            lines.append(f"| `{name.upper()}` | `{field.default}` | {field.description} |")
    return "\n".join(lines)


def test_the_readme_lists_the_settings() -> None:
    readme = Path(settings.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert settings_table(Settings) in readme
