"""What callers and transcribers write for one and the same thing: umlauts, plurals, sizes. No I/O.

`read("Übergangsmuffen 22er auf 15")` and `read("uebergangsmuffe 22 x 15 mm")` give the same words and sizes.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

Size = tuple[str, ...]  # dimensions in order: ("22", "15"), ('1/2"',); millimetres unless marked as inches

_FRACTIONS = str.maketrans({"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅜": " 3/8", "×": "x", "*": "x"})
_QUOTES = re.compile("[″”“„]|''")
_DIGRAPHS = re.compile("[aou]e")
# How inches are said; longest first. "halb" alone is too common a word to count without its unit.
_INCH_WORDS = (
    (re.compile(r"\b(?:anderthalb|ein(?:und)?ein(?:en)? ?halb)(?:er|e)?[- ]?zoll\w*"), ' 1 1/2" '),
    (re.compile(r"\b(?:zwei(?:und)?einhalb)[- ]?zoll\w*"), ' 2 1/2" '),
    (re.compile(r"\b(?:ein(?:und)?ein ?viertel|funf ?viertel)(?:[- ]?zoll\w*)?"), ' 1 1/4" '),
    (re.compile(r"\bdrei ?viertel(?:[- ]?zoll\w*)?"), ' 3/4" '),
    (re.compile(r"\bdrei ?achtel(?:[- ]?zoll\w*)?"), ' 3/8" '),
    (re.compile(r"\b(?:ein )?(?:ein)?halb(?:er|en|es|e)?[- ]?zoll\w*"), ' 1/2" '),
    (re.compile(r"\b(?:ein )?(?:ein)?viertel[- ]?zoll\w*"), ' 1/4" '),
    (re.compile(r"\bein(?:er|en|e)?[- ]?zoll\w*"), ' 1" '),
    (re.compile(r"\bzwei[- ]?zoll\w*"), ' 2" '),
)
_ANGLE = re.compile(r"(?<![a-z0-9.,/])(\d{1,3}) ?(?:°|-?grad\b)")
_INCH = r'\d{1,2} \d/\d{1,2}|\d{1,2}/(?:2|4|8|16)(?!\d)|\d{1,2}(?= ?(?:"|-?zoll\b))'
_LENGTH = r"\d{1,4}(?:[.,]\d{1,2})?"
_DIMENSION = re.compile(
    rf'(?:dn ?)?(?:(?P<inch>{_INCH}) ?(?:"|-?zoll\w*\b)?'
    rf"|(?P<mm>{_LENGTH})[- ]?(?:mm|mil+imetern?|er[nsm]?)?)(?![a-wyz0-9])"
)
_SEPARATOR = re.compile(r" ?(?:x|/|mal|auf|zu) ?(?=\d)")
_START = re.compile(r"(?<![a-z0-9.,/])(?:dn ?)?(?=\d)")
_LETTER_BEFORE_WORD = re.compile(r"(?<![a-z0-9])([a-z])[- ]+(?=[a-z]{3,})")
_WORD = re.compile(r"\d+°|[a-z][a-z0-9]*|\d+")
_PLURAL = ("en", "er", "es", "e", "n", "s")
FILLERS = frozenset(
    re.findall(
        r"\w+",
        "aber also artikel artikelnummer auch auf aus bitte brauche das dem den der die ein eine einen einer er es fur"
        " gern gerne grosse haben hatte ich im in mal millimeter mit mm noch nummer so stuck stucke und uns von wir"
        " zoll zu zum",
    )
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Words (folded, singular) and sizes of a text, each in the order said."""

    words: tuple[str, ...]
    sizes: tuple[Size, ...]


def fold(text: str) -> str:
    """Lower case without umlauts: "Bögen", "BOEGEN" and "bogen" become one; ß and ss too."""
    plain = unicodedata.normalize("NFKD", text.translate(_FRACTIONS).casefold().replace("⁄", "/"))
    return _DIGRAPHS.sub(lambda pair: pair[0][0], "".join(c for c in plain if not unicodedata.combining(c)))


def singular(word: str) -> str:
    """A folded word without its German plural ending; crude, but the same for both sides of a comparison."""
    for ending in _PLURAL:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word[-1].isdigit():
            return word[: -len(ending)]
    return word


def read(text: str) -> Reading:
    """Split a text into words and sizes."""
    folded = _QUOTES.sub('"', fold(text))
    for pattern, inches in _INCH_WORDS:
        folded = pattern.sub(inches, folded)
    angles = _ANGLE.findall(folded)
    rest, sizes = _take_sizes(_ANGLE.sub(" ", folded))
    rest = _LETTER_BEFORE_WORD.sub(r"\1", rest)
    words = [singular(word) for word in _WORD.findall(rest) if word not in FILLERS]
    return Reading((*words, *(f"{angle}°" for angle in angles)), tuple(sizes))


def _take_sizes(text: str) -> tuple[str, list[Size]]:
    rest, sizes, position = [], [], 0
    while start := _START.search(text, position):
        dimensions, end = _size_at(text, start.start())
        if not dimensions:
            end = start.end() + 1
            while end < len(text) and text[end].isalnum():
                end += 1
            rest.append(text[position:end])
        else:
            rest.append(text[position : start.start()])
            sizes.append(_plain(dimensions))
        position = end
    rest.append(text[position:])
    return " ".join(rest), sizes


def _size_at(text: str, position: int) -> tuple[list[str], int]:
    dimensions: list[str] = []
    end = position
    while found := _DIMENSION.match(text, position):
        inch, length = found["inch"], found["mm"]
        dimensions.append(f'{" ".join(inch.split())}"' if inch else length.replace(",", "."))
        end = found.end()
        separator = _SEPARATOR.match(text, end)
        if separator is None or len(dimensions) == 3:
            break
        position = separator.end()
    return dimensions, end


def _plain(dimensions: list[str]) -> Size:
    """One dimension if all are the same; "1 auf 3/4 Zoll" has its unit only at the end."""
    if any(d.endswith('"') for d in dimensions):
        dimensions = [d if d.endswith('"') or not d.isdigit() or int(d) > 4 else f'{d}"' for d in dimensions]
    return (dimensions[0],) if len(set(dimensions)) == 1 else tuple(dimensions)
