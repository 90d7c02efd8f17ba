"""The README's settings table is the settings class."""

from pathlib import Path

from libs.runtime.settings import ServiceSettings
from services.catalog_tools import settings
from services.catalog_tools.catalogue.generate import rows
from services.catalog_tools.importer import SAMPLE, parse_csv
from services.catalog_tools.settings import Settings


def settings_table(model: type[ServiceSettings]) -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if name not in ServiceSettings.model_fields:
            lines.append(f"| `{name.upper()}` | `{field.default}` | {field.description} |")
    return "\n".join(lines)


def test_the_readme_lists_the_settings() -> None:
    readme = Path(settings.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert settings_table(Settings) in readme


def test_the_sample_catalogue_is_what_the_generator_makes() -> None:
    articles, errors = parse_csv(SAMPLE.read_text(encoding="utf-8"))
    assert errors == []
    assert len(articles) >= 375
    assert [article.article_number for article in articles] == [row[0] for row in rows()]
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(";")[5] for line in lines] == [row[5] for row in rows()]
