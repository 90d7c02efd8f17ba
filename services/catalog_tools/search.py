"""Product search for spoken queries: an index in memory, made anew after each import. No I/O.

Products that differ only in size share their words, so words are weighed once per such family; then sizes
decide within it. Ties keep the order of the catalogue: what is asked for most should stand first in it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz, process

from services.catalog_tools.spoken import Size, fold, read, singular

FUZZY_LEAST = 72  # rapidfuzz ratio, 0 to 100
FUZZY_SHARE = 0.9
HEAD_SHARE, MODIFIER_SHARE = 0.85, 0.7  # of a German compound: "Lötmuffe" is a Muffe, less so a Löt-something
SIZE_SHARE = 0.45
KEEP_SHARE = 0.7  # families with less than this part of the best one's score are no hits
LEAST_SCORE = 0.3
UNKNOWN_WORD_WEIGHT = 1.0
COVERAGE_SHARE = 0.05
_WHOLE_FLOAT = re.compile(r"[0-9]+\.0+")


@dataclass(frozen=True, slots=True)
class Article:
    """A product as the search and the tools see it; `price_cents` per `unit`."""

    article_number: str
    name: str
    type: str
    size: str
    material: str
    price_cents: int
    unit: str
    synonyms: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """One product found; the score is between 0 and 1 and only compares hits of one query."""

    article: Article
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """The best hits, and how many there are in all."""

    hits: tuple[Hit, ...]
    total: int


class Index:
    """Search over a fixed set of articles."""

    def __init__(self, articles: Iterable[Article]) -> None:
        self.articles: tuple[Article, ...] = tuple(articles)
        self.types: tuple[str, ...] = tuple(dict.fromkeys(article.type for article in self.articles))
        self._exactly = {a.article_number: i for i, a in enumerate(self.articles)}
        self._by_number: dict[str, set[int]] = defaultdict(set)
        for i, article in enumerate(self.articles):
            self._by_number[plain_number(article.article_number)].add(i)
        self._sizes = [_size_of(article) for article in self.articles]
        self._members: list[list[int]] = []  # family -> articles
        self._lengths: list[int] = []  # family -> number of different words
        self._family_types: list[str] = []
        self._postings: dict[str, list[int]] = defaultdict(list)  # word -> families
        self._group()
        self._vocabulary = [word for word in self._postings if not word[0].isdigit()]

    def _group(self) -> None:
        families: dict[tuple[str, tuple[str, ...]], int] = {}
        for i, article in enumerate(self.articles):
            text = f"{article.type} {article.name} {article.material} {article.synonyms.replace('|', ' ')}"
            words = read(text).words
            key = (article.type, tuple(sorted(set(words))))
            family = families.setdefault(key, len(families))
            if family == len(self._members):
                self._members.append([])
                self._lengths.append(len(set(read(f"{article.type} {article.name}").words)))
                self._family_types.append(article.type)
                for word in key[1]:
                    self._postings[word].append(family)
            self._members[family].append(i)

    def article(self, number: str) -> Article | None:
        """The article of this number as written, else however it is spaced; none if several could be meant."""
        exact = self._exactly.get(number.strip())
        if exact is not None:
            return self.articles[exact]
        spellings = {plain_number(number)} - {""}
        if _WHOLE_FLOAT.fullmatch(number.strip()):  # 101004.0: a number that went through a float
            spellings.add(number.strip().partition(".")[0])
        meant = {i for spelling in spellings for i in self._by_number.get(spelling, ())}
        return self.articles[meant.pop()] if len(meant) == 1 else None

    def search(self, query: str, *, type: str = "", size: str = "", limit: int = 8) -> Found:
        """Products for what somebody said, best first; `type` and `size` narrow it down."""
        numbered = self._numbered(query)
        reading = read(query)
        words, sizes = list(reading.words), list(reading.sizes + read(size).sizes)
        types = self._types_like(type)
        if type and not types:
            words += read(type).words
        for single in [s for s in sizes if len(s) == 1 and len(sizes) > 1]:
            if f"{single[0]}°" in self._postings:  # "Bogen 90 15": an angle said without its unit
                sizes.remove(single)
                words.append(f"{single[0]}°")
        if not (words or sizes or types):
            return Found(numbered[:limit], len(numbered))
        found = self._ranked(self._families(words, types), sizes)
        known = {hit.article.article_number for hit in numbered}
        hits = numbered + tuple(hit for hit in found if hit.article.article_number not in known)
        return Found(hits[:limit], len(hits))

    def _numbered(self, query: str) -> tuple[Hit, ...]:
        """Hits by article number: the whole query, or a word of it that is long enough to mean one."""
        words = [query, *(w for w in query.split() if len(plain_number(w)) >= 5)]
        articles = dict.fromkeys(a for word in words if (a := self.article(word)))
        return tuple(Hit(article, 1.0) for article in articles)

    def _types_like(self, wanted: str) -> set[str]:
        if not wanted:
            return set()
        words = set(read(wanted).words)
        same = {t for t in self.types if set(read(t).words) == words}
        if same:
            return same
        close = process.extractOne(fold(wanted), [fold(t) for t in self.types], scorer=fuzz.ratio, score_cutoff=80)
        return {self.types[close[2]]} if close else set()

    def _families(self, words: Sequence[str], types: set[str]) -> dict[int, float]:
        """Score of each family that fits the words, 0 to 1."""
        if not words:
            return {f: 1.0 for f, t in enumerate(self._family_types) if not types or t in types}
        scores: dict[int, float] = defaultdict(float)
        matched: dict[int, int] = defaultdict(int)
        total = 0.0
        for word in dict.fromkeys(part for said in words for part in self._parts(said)):
            best: dict[int, float] = {}
            for token, share in self._similar(word):
                for family in self._postings[token]:
                    best.setdefault(family, share)
            weight = math.log(1 + len(self._members) / len(best)) if best else UNKNOWN_WORD_WEIGHT
            total += weight
            for family, share in best.items():
                scores[family] += weight * share
                matched[family] += 1
        return {
            family: score / total * (1 - COVERAGE_SHARE)
            + COVERAGE_SHARE * min(1, matched[family] / self._lengths[family])
            for family, score in scores.items()
            if not types or self._family_types[family] in types
        }

    def _parts(self, word: str) -> tuple[str, ...]:
        """A compound that the catalogue writes as two words: "Kupferbogen" is "Kupfer" and "Bogen"."""
        if word not in self._postings:
            for cut in range(3, len(word) - 2):
                modifier, head = singular(word[:cut]), word[cut:]
                if head in self._postings and modifier in self._postings:
                    return modifier, head
        return (word,)

    def _similar(self, word: str) -> list[tuple[str, float]]:
        """Words of the catalogue that may be meant, with a share between 0 and 1, best first."""
        shares: dict[str, float] = {}
        if word in self._postings:
            shares[word] = 1.0
        if len(word) < 3 or word[0].isdigit():
            return list(shares.items())
        for token in self._vocabulary:
            if len(token) < 3 or token == word:
                continue
            longer, shorter = (token, word) if len(token) > len(word) else (word, token)
            if longer.endswith(shorter):
                shares[token] = HEAD_SHARE
            elif len(shorter) > 3 and longer.startswith(shorter):
                shares[token] = MODIFIER_SHARE
        if len(word) > 3:
            close = process.extract(word, self._vocabulary, scorer=fuzz.ratio, score_cutoff=FUZZY_LEAST, limit=20)
            for token, ratio, _ in close:
                shares[token] = max(shares.get(token, 0.0), ratio / 100 * (FUZZY_SHARE if token != word else 1))
        return sorted(shares.items(), key=lambda pair: -pair[1])

    def _ranked(self, families: dict[int, float], sizes: list[Size]) -> list[Hit]:
        best = max(families.values(), default=0.0)
        if best < LEAST_SCORE:
            return []
        wanted = _alternatives(sizes)
        fits: dict[Size, float] = {}
        scored: list[tuple[float, float, int]] = []
        for family, text in families.items():
            if text < KEEP_SHARE * best:
                continue
            for i in self._members[family]:
                dimensions = self._sizes[i]
                if dimensions not in fits:
                    fits[dimensions] = _fit(wanted, dimensions)
                fit = fits[dimensions]
                score = text * (1 - SIZE_SHARE) + fit * SIZE_SHARE if wanted else text
                scored.append((-score, fit, i))
        if wanted and any(fit > 0 for _, fit, _ in scored):
            scored = [entry for entry in scored if entry[1] > 0]
        scored.sort(key=lambda entry: (round(entry[0], 6), entry[2]))
        return [Hit(self.articles[i], -score) for score, _, i in scored]


def plain_number(text: str) -> str:
    """An article number as it is said: letters (of any script) and digits, without case, spaces and signs."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def _size_of(article: Article) -> Size:
    sizes = read(article.size).sizes or read(article.name).sizes
    return sizes[0] if sizes else ()


def _alternatives(sizes: list[Size]) -> list[tuple[Size, float]]:
    """What the sizes said may mean together, each with its weight: "22 15" is 22x15, or else one of the two."""
    unique = list(dict.fromkeys(sizes))
    if len(unique) < 2:
        return [(size, 1.0) for size in unique]
    joined = tuple(dimension for size in unique for dimension in size)
    return [(joined, 1.0), *((size, 0.9 if len(size) > 1 else 0.8) for size in unique)]


def _fit(wanted: list[tuple[Size, float]], dimensions: Size) -> float:
    return max((weight * _fit_one(size, dimensions) for size, weight in wanted), default=0.0)


def _fit_one(wanted: Size, has: Size) -> float:
    """How well a product's dimensions fit those asked for, 0 to 1."""
    if wanted == has:
        return 1.0
    if not has:
        return 0.0
    if len(wanted) == len(has) and sorted(wanted) == sorted(has):
        return 0.95  # 15 auf 22 is 22x15 the other way round
    if len(wanted) == 2 and len(has) == 3 and set(wanted) == set(has):
        return 0.85 if has[:2] == wanted and has[0] == has[2] else 0.7  # a tee "22 auf 15" is 22x15x22
    if len(wanted) == 1 and wanted[0] in has:
        to_thread = has[0] == wanted[0] and all(dimension.endswith('"') for dimension in has[1:])
        return 0.9 if to_thread else 0.5 if has[0] == wanted[0] else 0.4
    return 0.3 if len(has) == 1 and len(wanted) > 1 and has[0] in wanted else 0.0
