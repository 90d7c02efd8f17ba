"""Queries as callers say them and transcribers write them, against the sample catalogue."""

from collections.abc import Iterator

import pytest

from services.catalog_tools.catalogue.generate import rows
from services.catalog_tools.search import Article, Index
from services.catalog_tools.spoken import Reading, fold, read


def articles() -> Iterator[Article]:
    for number, name, type_, size, material, price, unit, synonyms in rows():
        yield Article(number, name, type_, size, material, round(float(price) * 100), unit, synonyms)


@pytest.fixture(scope="module")
def index() -> Index:
    return Index(articles())


FIRST_HITS = {
    "T-Stück 22 mm": "T-Stück 22 mm Kupfer, Lötfitting",
    "T-Stücke 22 Millimeter": "T-Stück 22 mm Kupfer, Lötfitting",
    "T Stück 22": "T-Stück 22 mm Kupfer, Lötfitting",
    "Tstuck 22": "T-Stück 22 mm Kupfer, Lötfitting",
    "t-stueck 22er": "T-Stück 22 mm Kupfer, Lötfitting",
    "TSTÜCKE 22ER": "T-Stück 22 mm Kupfer, Lötfitting",
    "Tee-Stück 22": "T-Stück 22 mm Kupfer, Lötfitting",
    "zehn T-Stücke, 22 Millimeter": "T-Stück 22 mm Kupfer, Lötfitting",
    "ich hätte gern 10 Stück T-Stücke 22 mm": "T-Stück 22 mm Kupfer, Lötfitting",
    "T-Stück 22 auf 15": "T-Stück 22x15x22 reduziert Kupfer, Lötfitting",
    "T-Stück 22x15x22": "T-Stück 22x15x22 reduziert Kupfer, Lötfitting",
    "T-Stück 22 mm Edelstahl": "Press-T-Stück 22 mm Edelstahl, Pressfitting",
    "Press-T-Stück 28": "Press-T-Stück 28 mm Kupfer, Pressfitting",
    "Presststück 28": "Press-T-Stück 28 mm Kupfer, Pressfitting",
    "Uebergangsmuffe 22er auf 15": "Übergangsmuffe 22x15 Kupfer, Lötfitting",
    "Uebergangsmuffen 22 auf 15": "Übergangsmuffe 22x15 Kupfer, Lötfitting",
    "Übergangsmuffe 22 x 15 mm": "Übergangsmuffe 22x15 Kupfer, Lötfitting",
    "übergangsmuffen von 22 mm auf 15 mm": "Übergangsmuffe 22x15 Kupfer, Lötfitting",
    "Ubergangsmuffe 22 15": "Übergangsmuffe 22x15 Kupfer, Lötfitting",
    "Übergangsmuffe 15 auf 22": "Übergangsmuffe 22x15 Kupfer, Lötfitting",
    "Übergangsmufe 22x15": "Übergangsmuffe 22x15 Kupfer, Lötfitting",
    "Reduziermuffe 22x15": "Übergangsmuffe 22x15 Kupfer, Lötfitting",
    "Reduziermuffen 28 auf 22 Edelstahl": "Press-Übergangsmuffe 28x22 Edelstahl, Pressfitting",
    "Bögen 90 Grad 15 Millimeter": "Bogen 90° 15 mm Kupfer, Lötfitting",
    "boegen 90 grad 15": "Bogen 90° 15 mm Kupfer, Lötfitting",
    "Bogen 90° 15 mm": "Bogen 90° 15 mm Kupfer, Lötfitting",
    "Bogen 90 15": "Bogen 90° 15 mm Kupfer, Lötfitting",
    "Bogen 15 mm": "Bogen 90° 15 mm Kupfer, Lötfitting",
    "Kupferbögen 45 Grad 18": "Bogen 45° 18 mm Kupfer, Lötfitting",
    "Pressbögen 90 Grad 22": "Pressbogen 90° 22 mm Kupfer, Pressfitting",
    "Lötmuffen 18": "Lötmuffe 18 mm Kupfer",
    "loetmuffe 28 mm": "Lötmuffe 28 mm Kupfer",
    "Muffen 15er": "Lötmuffe 15 mm Kupfer",
    "Kappen 15": "Kappe 15 mm Kupfer, Lötfitting",
    "Endkappe 22": "Kappe 22 mm Kupfer, Lötfitting",
    "Kugelhahn halb Zoll": 'Kugelhahn 1/2" IG Messing, Hebelgriff',
    "Kugelhähne 1/2 Zoll": 'Kugelhahn 1/2" IG Messing, Hebelgriff',
    'kugelhaehne 1/2"': 'Kugelhahn 1/2" IG Messing, Hebelgriff',
    "Kugelhahn dreiviertel Zoll": 'Kugelhahn 3/4" IG Messing, Hebelgriff',
    "Kugelhahn drei viertel Zoll Rotguß": 'Kugelhahn 3/4" IG Rotguss für Trinkwasser',
    "Kugelhahn ein Zoll": 'Kugelhahn 1" IG Messing, Hebelgriff',
    "Kugelhahn anderthalb Zoll": 'Kugelhahn 1 1/2" IG Messing, Hebelgriff',
    "Kugelhahn 1 1/4 Zoll": 'Kugelhahn 1 1/4" IG Messing, Hebelgriff',
    "Doppelnippel ½ Zoll": 'Doppelnippel 1/2" AG Messing',
    "Übergangswinkel 15 auf halb Zoll Innengewinde": 'Übergangswinkel 15x1/2" IG Rotguss, Löten',
    "Wandscheibe 15 auf 1/2 Zoll": 'Wandscheibe 15x1/2" IG Rotguss, Löten',
    "Winkel 90 Grad 20 Mehrschicht": "Winkel 90° 20 mm Mehrschichtverbundrohr, Pressfitting",
    "Klemmverschraubung 32 PE": 'Klemmverschraubung 32x1" AG PE-Rohr',
    "Rohrschellen 22": "Rohrschelle 22 mm mit Schalldämmung",
    "Kupferrohre 15 mm": "Kupferrohr 15 mm, 5 m lang",
    "Reduzierstück 22 auf 18": "Übergangsmuffe 22x18 Kupfer, Lötfitting",
    "15er Kupferbogen 90°": "Bogen 90° 15 mm Kupfer, Lötfitting",
    "pressmuffen 22 edelstahl": "Pressmuffe 22 mm Edelstahl, Pressfitting",
    "Verschraubung 22 flachdichtend": "Verschraubung 22 mm flachdichtend Rotguss, Löten",
    "Uebergangsstueck 22 auf 3/4 zoll aussengewinde": 'Übergangsstück 22x3/4" AG Rotguss, Löten',
    "1000 Bögen 15 mm": "Bogen 90° 15 mm Kupfer, Lötfitting",
    "T-Stück 15 15 15": "T-Stück 15 mm Kupfer, Lötfitting",
    "101004": "T-Stück 22 mm Kupfer, Lötfitting",
    "Artikelnummer 107003": "Übergangsmuffe 22x15 Kupfer, Lötfitting",
}


@pytest.mark.parametrize(("query", "name"), list(FIRST_HITS.items()))
def test_a_spoken_query_finds_its_product_first(index: Index, query: str, name: str) -> None:
    found = index.search(query)
    assert [hit.article.name for hit in found.hits[:1]] == [name]
    assert found.total >= len(found.hits)


@pytest.mark.parametrize("query", ["", "   ", "Waschmaschine", "22/0", "x" * 5000, "\x00", "(((", "1/0 Zoll"])
def test_strange_queries_find_nothing_or_something_but_never_fail(index: Index, query: str) -> None:
    assert index.search(query).total >= 0


def test_what_is_not_sold_is_not_found(index: Index) -> None:
    assert index.search("Waschmaschine").hits == ()


def test_a_size_leaves_out_the_other_sizes_unless_there_is_none(index: Index) -> None:
    assert all("22" in hit.article.size.split("x") for hit in index.search("T-Stück 22", limit=50).hits)
    assert index.search("T-Stück 23", limit=50).total > 20


def test_type_and_size_narrow_the_search(index: Index) -> None:
    found = index.search("Kupfer", type="Bögen", size="22er")
    assert found.hits[0].article.name == "Bogen 90° 22 mm Kupfer, Lötfitting"
    assert {hit.article.type for hit in found.hits} == {"Bogen"}


def test_a_type_alone_lists_all_of_it(index: Index) -> None:
    found = index.search("", type="Eckventile")
    assert {hit.article.type for hit in found.hits} == {"Eckventil"}
    assert found.total == 2


@pytest.mark.parametrize("text", ["Übergänge", "Uebergaenge", "UBERGANGE", "u\u0308berga\u0308nge"])
def test_umlauts_fold_both_ways(text: str) -> None:
    assert fold(text) == "ubergange"


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("22er", [("22",)]),
        ("22 mm", [("22",)]),
        ("22mm", [("22",)]),
        ("22 Millimeter", [("22",)]),
        ("22x15", [("22", "15")]),
        ("22 × 15 × 22", [("22", "15", "22")]),
        ("22 mm auf 15 mm", [("22", "15")]),
        ("22x22x22", [("22",)]),
        ("halb Zoll", [('1/2"',)]),
        ("halbzöllig", [('1/2"',)]),
        ("1 1/4 Zoll", [('1 1/4"',)]),
        ("3/4 auf 1/2 Zoll", [('3/4"', '1/2"')]),
        ("1 auf 3/4 Zoll", [('1"', '3/4"')]),
        ('15 x 1/2"', [("15", '1/2"')]),
        ("DN 50", [("50",)]),
        ("PN16", []),
    ],
)
def test_sizes_are_understood_as_said(text: str, sizes: list[tuple[str, ...]]) -> None:
    assert list(read(text).sizes) == sizes


def test_plural_and_spelling_do_not_matter() -> None:
    assert (
        read("Übergangsmuffen 22er auf 15")
        == read("uebergangsmuffe 22x15 mm")
        == Reading(("ubergangsmuff",), (("22", "15"),))
    )


def numbered(*numbers: str) -> Index:
    return Index(Article(number, "Rohr", "Rohr", "", "", 100, "Stück") for number in numbers)


@pytest.mark.parametrize(
    ("catalogue", "said", "found"),
    [
        (("10-1", "101"), "10-1", "10-1"),
        (("10-1", "101"), "101", "101"),
        (("10-1", "101"), "10 1", None),
        (("Ä7", "Ö7"), "ä 7", "Ä7"),
        (("Ä7", "Ö7"), "A\u03087", "Ä7"),
        (("Ä7", "Ö7"), "A7", None),
        (("101004",), "101 004", "101004"),
        (("101004",), "101004.0", "101004"),
        (("101004", "1010040"), "101004.0", None),
        (("101004",), "", None),
        (("101004",), "--", None),
    ],
)
def test_an_article_number_means_one_article_or_none(catalogue: tuple[str, ...], said: str, found: str | None) -> None:
    article = numbered(*catalogue).article(said)
    assert (article and article.article_number) == found
