"""Which of its languages an agent speaks with a caller: the one that the caller speaks. A core without I/O.

A transcription that tells the language is believed; else the small words of a sentence tell it (`guessed`). One word
("okay") changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from services.ai_session.phrases import Verbatim, Wish

LEAST_WORDS = 3
_SMALL_WORDS = {
    "de": "ich sie der die das ist nicht und ein eine mit für auf haben möchte bitte wie was wir ja nein es noch auch",
    "en": "i you the is are not and a an with for on have would please how what we yes no it do can my to of",
    "fr": "je vous le la les est ne pas et un une avec pour sur avez voudrais comment que nous oui non des du",
    "it": "io lei il la gli è non e un una con per su ho vorrei come che cosa noi sì no di del sono",
    "es": "yo usted el la los es no y un una con para en tengo quisiera cómo qué nosotros sí de del por favor está",
    "nl": "ik u de het is niet en een met voor op heb wil graag hoe wat wij ja nee van zijn dat ook",
    "pl": "ja pan pani jest nie i z dla na mam proszę jak co my tak w do się to czy chciałbym",
    "tr": "ben siz ve bir bu ile için var yok ne nasıl evet hayır lütfen mi mı da de istiyorum",
}
_KNOWN = {language: frozenset(words.split()) for language, words in _SMALL_WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+")


def code_of(told: Any) -> str | None:
    """What a transcription says was spoken, as ISO 639-1, where it says a code.

    It is `languages` of gpt-transcribe (JSON or objects of its package, the likeliest first), or `language` of others.
    """
    first = told[0] if isinstance(told, list) and told else told
    code = first.get("code") if isinstance(first, dict) else getattr(first, "code", first)
    primary = code.split("-")[0].lower() if isinstance(code, str) else ""
    return primary if len(primary) == 2 and primary.isalpha() else None


def guessed(text: str, among: Iterable[str]) -> str | None:
    """The language of a sentence, if its small words decide for one of these."""
    words = _WORD.findall(text.casefold())
    if len(words) < LEAST_WORDS:
        return None
    scores = sorted(((sum(word in _KNOWN.get(one, ()) for word in words), one) for one in among), reverse=True)
    if not scores or not scores[0][0] or (len(scores) > 1 and scores[0][0] < 2 * scores[1][0]):
        return None
    return scores[0][1]


def instruction(languages: tuple[str, ...]) -> str:
    """What a model has to know that speaks several languages; empty for one."""
    if len(languages) < 2:
        return ""
    return (
        f"You speak these languages (ISO 639-1): {', '.join(languages)}. Begin in {languages[0]}. Answer each time in "
        f"the language that the caller has just spoken; if it is none of these, stay with the one spoken before."
    )


class CallerLanguage:
    """One call's language. `languages` are the agent's, the first one is its own."""

    def __init__(self, languages: tuple[str, ...]) -> None:
        self._languages = languages
        self.present = languages[0] if languages else ""

    def heard(self, text: str, told: str | None) -> None:
        """Take the words of a turn, and what the transcription says that they are."""
        if len(self._languages) < 2:
            return
        heard = told if told in self._languages else guessed(text, self._languages)
        if heard is not None and (told is None or len(_WORD.findall(text)) >= LEAST_WORDS):
            self.present = heard

    def of(self, wish: Wish) -> Wish:
        """Words that the agent was given in its own language, for a caller who may speak another one."""
        if not isinstance(wish, Verbatim) or not self._languages or self.present == self._languages[0]:
            return wish
        return f"Say the following to the caller, translated into {self.present!r}, and add nothing:\n{wish.text}"
