"""The house rules that a linter does not know, and generated pages that must not drift."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cli.settings_document import example_environment, settings_markdown

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 400
PROTOCOL_CORES = ("libs/sip/", "libs/call_leg/leg.py", "services/rehearsal/realtime.py", "services/rehearsal/live.py")
LONGEST_CORE = 600


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_the_settings_page_is_what_the_classes_say() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_markdown(), "run `make docs`"
    assert (ROOT / ".env.example").read_text() == example_environment(), "run `make docs`"


def test_no_file_grows_into_the_one_that_owns_everything() -> None:
    long = {}
    for name in tracked("libs/*.py", "services/*.py", "cli/*.py"):
        lines = len((ROOT / name).read_text().splitlines())
        if lines > (LONGEST_CORE if name.startswith(PROTOCOL_CORES) else LONGEST):
            long[name] = lines
    assert long == {}


def test_no_tracked_file_names_a_download_address_or_a_path_of_one_machine() -> None:
    wrong = re.compile(r"files\.python" r"hosted|pypi\.org/simple|\"resolved\": *\"http|index-url *=? *http")
    here = str(ROOT) + "/"
    found = []
    for name in tracked():
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:
            continue
        if wrong.search(text) or here in text:
            found.append(name)
    assert set(found) <= {"tests/unit/test_house.py"}


def test_only_settings_read_the_environment() -> None:
    reads = re.compile(r"os\.environ|os\.getenv|getenv\(")
    allowed = {"cli/child.py"}
    found = [
        name
        for name in tracked("libs/*.py", "services/*.py", "cli/*.py")
        if not name.endswith("settings.py") and reads.search((ROOT / name).read_text())
    ]
    assert [name for name in found if name not in allowed] == []
