"""The demo on other backends: the configuration it applies, and the evidence it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import checkout
from cli.apply import read_config
from cli.demo.checks import Said
from cli.demo.configs import configs
from cli.demo.recorded import Recorded, by_name, by_pieces, by_words
from cli.demo.script import CALLEE
from libs.contracts.agent import AgentConfig, Backend
from libs.contracts.events import AgentTurn


def turn(item: str, text: str) -> AgentTurn:
    heard = {"heard_text": text, "audio_ms": 100.0, "heard_ms": 100.0, "interrupted": False, "from_sample": 0}
    return AgentTurn(
        event_id="e", org="o", call="c", at="2026-11-21T12:00:00Z", item=item, response="r", text=text, **heard
    )


def recorded(*texts: str) -> list[Recorded]:
    return [Recorded(f"item-{number}", Said(text, text.encode())) for number, text in enumerate(texts)]


def test_the_sample_itself_is_applied_for_its_own_backend(tmp_path: Path) -> None:
    assert configs("realtime", tmp_path / "config") == [checkout.CONFIG]


@pytest.mark.parametrize("backend", ["live", "pipeline"])
def test_the_sample_on_another_backend_is_a_valid_configuration(tmp_path: Path, backend: Backend) -> None:
    reading = read_config(configs(backend, tmp_path / "config"))
    agents = {document.name: document for document in reading.documents if isinstance(document, AgentConfig)}
    assert agents[CALLEE].backend == backend
    assert agents["orders-en"].backend == "realtime"
    sample = read_config([checkout.CONFIG])
    assert len(reading.documents) == len(sample.documents)


def test_items_with_names_are_found_by_them() -> None:
    found = by_name([turn("item-1", "Zwei.")], recorded("Eins.", "Zwei."))
    assert found == {"item-1": Said("Zwei.", b"Zwei.")}


def test_a_turn_without_a_name_is_found_by_its_words_and_may_hold_several_items() -> None:
    turns = [turn("a", "Guten Tag."), turn("b", "Moment. Das haben wir."), turn("c", "Guten Tag.")]
    found = by_words(turns, recorded("Guten Tag.", "Moment.", "Das haben wir.", "Guten Tag."))
    assert {item: said.text for item, said in found.items()} == {turn.item: turn.text for turn in turns}
    assert found["b"].audio == b"Moment."


def test_other_words_are_not_found_as_the_turns() -> None:
    found = by_words([turn("a", "Guten Tag und danke."), turn("b", "Nein.")], recorded("Guten Tag"))
    assert {item: said.text for item, said in found.items()} == {"a": "Guten Tag"}


def test_pieces_may_be_spoken_again_without_being_rendered_again() -> None:
    turns = [turn("a", "Notiert. Was noch?"), turn("b", "Gern. Was noch?")]
    found = by_pieces(turns, recorded("Notiert.", "Was noch?", "Gern."))
    assert {item: said.text for item, said in found.items()} == {turn.item: turn.text for turn in turns}
    assert found["b"].audio == b"Gern."
