"""What the documents name has to exist: test files and tests in the table of standards, links, files,
settings, metrics.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.metrics_document import EVERY_SERVICE, metrics_of
from services.rehearsal.metrics import DEFINED

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / "services").rglob("README.md"), *ROOT.glob("*.md")],
    key=lambda path: path.as_posix(),
)
RFC = ROOT / "docs" / "rfc.md"
TEST_FILES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob("test_*.py"))]
STATES = ("Yes", "Partial", "No")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
TITLE = re.compile(r"^#+ +(.+)$", re.MULTILINE)
METRIC = re.compile(r"(?:\b[a-z]+:)?callbus_[a-z0-9_]+(?::[a-z0-9_]+)?")
PART = re.compile(r"_(bucket|sum|count)$")  # of a histogram
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def rows(text: str) -> list[list[str]]:
    """Rows of tables that have a state: those whose head says so."""
    found, column = [], -1
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            column = -1
        elif "state" in cells:
            column = cells.index("state")
        elif column >= 0 and not set(cells[0]) <= {"-"}:
            found.append([cells[column], *cells])
    return found


def files_named(name: str) -> list[str]:
    """Those that are meant by the end of a path: `test_sdp.py`, `sip/test_transfers.py`."""
    return [file for file in TEST_FILES if f"/{file}".endswith(f"/{name}")]


def anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def test_every_row_of_the_table_of_standards_has_a_state_and_what_is_there_has_a_test() -> None:
    found = rows(RFC.read_text("utf-8"))
    assert len(found) > 60
    assert [row for row in found if row[0] not in STATES] == []
    assert [row for row in found if row[0] != "No" and "test_" not in row[-1]] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_test_files_and_tests_that_are_named_exist(path: Path) -> None:
    missing = []
    for name in re.findall(r"`([\w/]*test_\w+\.py(?:::\w+)?)`", path.read_text("utf-8")):
        file, _, test = name.partition("::")
        sources = [(ROOT / found).read_text("utf-8") for found in files_named(file)]
        if not any(f"def {test}(" in source if test else True for source in sources):
            missing.append(name)
    assert missing == []


def test_a_file_in_the_table_of_standards_is_one_file() -> None:
    named = set(re.findall(r"`([\w/]*test_\w+\.py)(?:::\w+)?`", RFC.read_text("utf-8")))
    assert {name: files_named(name) for name in named if len(files_named(name)) > 1} == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(CODE.sub("", path.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, part = target.partition("#")
        at = (path.parent / file).resolve() if file else path
        titles = {anchor(title) for title in TITLE.findall(at.read_text("utf-8"))} if part and at.exists() else {part}
        if not at.exists() or part not in titles:
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_documents_that_are_named_in_the_text_exist(path: Path) -> None:
    named = set(re.findall(r"\bdocs/[\w/.-]+\.md\b", path.read_text("utf-8")))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=names)
def test_settings_that_are_set_in_an_example_exist(path: Path) -> None:
    known = (ROOT / "docs" / "settings.md").read_text("utf-8") + (ROOT / ".env.example").read_text("utf-8")
    blocks = "\n".join(CODE.findall(path.read_text("utf-8")))
    names_set = set(re.findall(r"^ *#?([A-Z][A-Z0-9]+_[A-Z0-9_]+)=", blocks, re.MULTILINE))
    assert {name for name in names_set if not re.search(rf"\b{name}\b", known)} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_metrics_that_are_named_exist(path: Path) -> None:
    recorded = set(re.findall(r"record: (\S+)", (ROOT / "deploy" / "prometheus" / "recording.yml").read_text("utf-8")))
    known = (
        {name for service in EVERY_SERVICE for name in metrics_of(service)} | {one.name for one in DEFINED} | recorded
    )
    named = set(METRIC.findall(path.read_text("utf-8")))
    assert {name for name in named if name not in known and PART.sub("", name) not in known} == set()


def test_make_docs_writes_everything_that_is_generated() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\ndocs:")[2].partition("\n\n")[0]
    for written in ("docs/bus.md", "docs/settings.md", ".env.example", "docs/metrics.md"):
        assert f"> {written}\n" in f"{recipe}\n", written
