"""The caller's language, by what a transcription tells and by the small words of a sentence."""

from __future__ import annotations

import pytest
from openai.types.audio import TranscriptionLanguage

from services.ai_session.language import CallerLanguage, code_of, guessed, instruction
from services.ai_session.phrases import Verbatim

ALL = ("de", "en", "fr", "it", "es", "nl", "pl", "tr")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Ich hätte gern zehn Stück, bitte.", "de"),
        ("Do you have it in another size?", "en"),
        ("Je voudrais une bouteille, s'il vous plaît.", "fr"),
        ("Vorrei sapere che cosa è disponibile.", "it"),
        ("Quisiera hablar con usted, por favor.", "es"),
        ("T-Stücke Kupfer 22", None),
        ("Okay.", None),
        ("", None),
    ],
)
def test_small_words_tell_the_language(text, language):
    assert guessed(text, ALL) == language


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ([{"code": "de"}, {"code": "en"}], "de"),
        ([TranscriptionLanguage(code="en")], "en"),
        (["pt-BR"], "pt"),
        ("DE", "de"),
        ("german", None),
        ([], None),
        (None, None),
        ([{"code": None}], None),
        ([3], None),
    ],
)
def test_what_a_transcription_tells_is_a_code_or_nothing(told, code):
    assert code_of(told) == code


def test_an_agent_follows_its_caller_among_its_languages_only():
    caller = CallerLanguage(("de", "en"))
    caller.heard("Okay.", "en")
    assert caller.present == "de"
    caller.heard("Do you have it in another size?", None)
    assert caller.present == "en"
    caller.heard("Je voudrais une bouteille.", "fr")
    assert caller.present == "en"
    caller.heard("Danke, das ist alles.", "de")
    assert caller.present == "de"


def test_given_words_are_translated_for_a_caller_of_another_language():
    caller = CallerLanguage(("de", "en"))
    assert caller.of(Verbatim("Sind Sie noch da?")) == Verbatim("Sind Sie noch da?")
    caller.heard("Do you have it in another size?", None)
    assert "'en'" in caller.of(Verbatim("Sind Sie noch da?"))
    assert caller.of(None) is None


def test_one_language_needs_no_instruction():
    assert instruction(("de",)) == ""
    assert "de, en" in instruction(("de", "en"))
