from pathlib import Path

import pytest

from libs.contracts import document

PAGE = Path(__file__).parents[3] / "docs" / "subjects.md"


def test_the_committed_page_is_what_the_contracts_generate():
    if not PAGE.exists() or PAGE.read_text() != document.subjects_markdown():
        pytest.fail(f"docs/subjects.md is out of date; regenerate it: {document.COMMAND}")


def test_every_event_has_a_publisher_and_no_other_class_has():
    assert set(document.event_classes()) == set(document.PUBLISHERS)
