"""Make sample.csv: `python -m services.catalog_tools.catalogue.generate > services/catalog_tools/catalogue/sample.csv`.

Products, numbers and prices are invented. What plumbers ask for most stands first: it wins ties in the search.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import TextIO

HEADER = ("article_number", "name", "type", "size", "material", "price_eur", "unit", "synonyms")


def _sizes(text: str) -> list[str]:
    return text.split()


COPPER = _sizes("12 15 18 22 28 35 42 54")
PRESS = _sizes("15 18 22 28 35 42 54")
MULTILAYER = _sizes("16 20 26 32")
PE = _sizes("25 32 40 50 63")
THREAD = ['1/4"', '3/8"', '1/2"', '3/4"', '1"', '1 1/4"', '1 1/2"', '2"']
VALVES = ['1/2"', '3/4"', '1"', '1 1/4"']
REDUCED = _sizes("15x12 18x15 22x15 22x18 28x15 28x18 28x22 35x22 35x28 42x28 42x35 54x35 54x42")
REDUCED_TEES = _sizes("18x15x18 22x15x22 22x18x22 28x15x28 28x18x28 28x22x28 35x22x35 35x28x35 42x28x42")
TO_THREAD = ['12x3/8"', '15x3/8"', '15x1/2"', '15x3/4"', '18x1/2"', '18x3/4"', '22x1/2"', '22x3/4"', '22x1"', '28x1"']
TO_THREAD_PRESS = ['15x1/2"', '18x1/2"', '22x1/2"', '22x3/4"', '28x1"', '35x1 1/4"']
MULTILAYER_THREAD = ['16x1/2"', '20x1/2"', '20x3/4"', '26x3/4"', '26x1"', '32x1"']
PE_THREAD = ['25x3/4"', '32x1"', '40x1 1/4"', '50x1 1/2"', '63x2"']


@dataclass(frozen=True)
class Family:
    """Products that differ in size alone; `name` has a place for it."""

    code: int
    type: str
    name: str
    material: str
    sizes: list[str]
    price: str  # of the smallest size
    growth: str = "1.42"  # factor from one size to the next
    synonyms: str = ""
    unit: str = "Stück"


TEE = "T-Fitting|Tee|Abzweig|Abzweigstück"
REDUCER = "Reduziermuffe|Reduzierung|Reduzierstück|Übergang"
IG, AG = "Innengewinde", "Außengewinde"

FAMILIES = (
    Family(101, "T-Stück", "T-Stück {} Kupfer, Lötfitting", "Kupfer", COPPER, "1.35", synonyms=TEE),
    Family(102, "T-Stück", "T-Stück {} reduziert Kupfer, Lötfitting", "Kupfer", REDUCED_TEES, "3.20", "1.3", TEE),
    Family(103, "Bogen", "Bogen 90° {} Kupfer, Lötfitting", "Kupfer", COPPER, "0.85", synonyms="Kupferbogen|Rohrbogen"),
    Family(104, "Bogen", "Bogen 45° {} Kupfer, Lötfitting", "Kupfer", COPPER, "0.95", synonyms="Kupferbogen|Rohrbogen"),
    Family(
        105, "Bogen", "Bogen 90° {} innen/außen Kupfer, Lötfitting", "Kupfer", COPPER, "0.92", synonyms="Absatzbogen"
    ),
    Family(106, "Muffe", "Lötmuffe {} Kupfer", "Kupfer", COPPER, "0.55", synonyms="Muffe|Verbinder|Kupplung"),
    Family(107, "Übergangsmuffe", "Übergangsmuffe {} Kupfer, Lötfitting", "Kupfer", REDUCED, "0.98", "1.22", REDUCER),
    Family(108, "Kappe", "Kappe {} Kupfer, Lötfitting", "Kupfer", COPPER, "0.65", synonyms="Endkappe|Verschlusskappe"),
    Family(109, "Winkel", "Winkel 90° {} Kupfer, Lötfitting", "Kupfer", COPPER, "1.10", synonyms="Lötwinkel|Knie"),
    Family(110, "Überspringbogen", "Überspringbogen {} Kupfer, Lötfitting", "Kupfer", COPPER[1:5], "2.90"),
    Family(111, "Übergangsstück", "Übergangsstück {} AG Rotguss, Löten", "Rotguss", TO_THREAD, "2.95", "1.18", AG),
    Family(112, "Übergangsstück", "Übergangsstück {} IG Rotguss, Löten", "Rotguss", TO_THREAD, "3.10", "1.18", IG),
    Family(113, "Winkel", "Übergangswinkel {} IG Rotguss, Löten", "Rotguss", TO_THREAD[1:8], "3.60", "1.2", IG),
    Family(114, "Winkel", "Übergangswinkel {} AG Rotguss, Löten", "Rotguss", TO_THREAD[1:8], "3.55", "1.2", AG),
    Family(
        115, "Wandscheibe", "Wandscheibe {} IG Rotguss, Löten", "Rotguss", TO_THREAD[2:5], "4.20", "1.2", "Deckenwinkel"
    ),
    Family(116, "Verschraubung", "Verschraubung {} flachdichtend Rotguss, Löten", "Rotguss", COPPER[1:6], "5.40"),
    Family(117, "Verschraubung", "Verschraubung {} konisch dichtend Rotguss, Löten", "Rotguss", COPPER[1:6], "5.80"),
    Family(201, "T-Stück", "Press-T-Stück {} Kupfer, Pressfitting", "Kupfer", PRESS, "5.90", synonyms=TEE),
    Family(202, "Bogen", "Pressbogen 90° {} Kupfer, Pressfitting", "Kupfer", PRESS, "3.60"),
    Family(203, "Bogen", "Pressbogen 45° {} Kupfer, Pressfitting", "Kupfer", PRESS, "3.45"),
    Family(204, "Muffe", "Pressmuffe {} Kupfer, Pressfitting", "Kupfer", PRESS, "2.70"),
    Family(
        205,
        "Übergangsmuffe",
        "Press-Übergangsmuffe {} Kupfer, Pressfitting",
        "Kupfer",
        REDUCED[1:11],
        "3.30",
        "1.2",
        REDUCER,
    ),
    Family(206, "Kappe", "Presskappe {} Kupfer, Pressfitting", "Kupfer", PRESS, "2.40", synonyms="Endkappe"),
    Family(207, "Übergangsstück", "Press-Übergangsstück {} AG Rotguss", "Rotguss", TO_THREAD_PRESS, "5.10", "1.25", AG),
    Family(208, "Übergangsstück", "Press-Übergangsstück {} IG Rotguss", "Rotguss", TO_THREAD_PRESS, "5.30", "1.25", IG),
    Family(301, "T-Stück", "Press-T-Stück {} Edelstahl, Pressfitting", "Edelstahl", PRESS, "11.20", synonyms=TEE),
    Family(302, "Bogen", "Pressbogen 90° {} Edelstahl, Pressfitting", "Edelstahl", PRESS, "8.40"),
    Family(303, "Bogen", "Pressbogen 45° {} Edelstahl, Pressfitting", "Edelstahl", PRESS, "8.10"),
    Family(304, "Muffe", "Pressmuffe {} Edelstahl, Pressfitting", "Edelstahl", PRESS, "6.90"),
    Family(
        305,
        "Übergangsmuffe",
        "Press-Übergangsmuffe {} Edelstahl, Pressfitting",
        "Edelstahl",
        REDUCED[1:11],
        "7.80",
        "1.2",
        REDUCER,
    ),
    Family(306, "Kappe", "Presskappe {} Edelstahl, Pressfitting", "Edelstahl", PRESS, "6.20", synonyms="Endkappe"),
    Family(401, "Winkel", "Gewindewinkel 90° {} IG/IG Messing", "Messing", THREAD[1:7], "2.10", synonyms=IG),
    Family(402, "T-Stück", "Gewinde-T-Stück {} IG Messing", "Messing", THREAD[1:7], "2.80", synonyms=f"{TEE}|{IG}"),
    Family(403, "Muffe", "Gewindemuffe {} IG Messing", "Messing", THREAD[:7], "1.50", synonyms=IG),
    Family(404, "Nippel", "Doppelnippel {} AG Messing", "Messing", THREAD, "1.10", synonyms=AG),
    Family(
        405,
        "Nippel",
        "Reduziernippel {} AG/IG Messing",
        "Messing",
        ['1/2"x3/8"', '3/4"x1/2"', '1"x1/2"', '1"x3/4"'],
        "1.60",
    ),
    Family(
        406,
        "Stopfen",
        "Stopfen {} AG Messing",
        "Messing",
        THREAD[1:7],
        "0.95",
        synonyms="Verschlussstopfen|Blindstopfen",
    ),
    Family(407, "Kappe", "Gewindekappe {} IG Messing", "Messing", THREAD[1:7], "1.20", synonyms="Verschlusskappe"),
    Family(
        408,
        "Hahnverlängerung",
        "Hahnverlängerung {} Messing verchromt",
        "Messing",
        ['1/2"x10', '1/2"x20', '1/2"x30', '1/2"x50', '3/4"x20'],
        "1.80",
        "1.2",
    ),
    Family(
        501,
        "Kugelhahn",
        "Kugelhahn {} IG Messing, Hebelgriff",
        "Messing",
        THREAD[1:],
        "6.40",
        synonyms="Absperrhahn|Kugelhähne",
    ),
    Family(
        502,
        "Kugelhahn",
        "Kugelhahn {} IG Rotguss für Trinkwasser",
        "Rotguss",
        VALVES,
        "11.90",
        synonyms="Absperrhahn|Kugelhähne",
    ),
    Family(
        503,
        "Ventil",
        "Schrägsitzventil {} IG Rotguss für Trinkwasser",
        "Rotguss",
        VALVES,
        "18.50",
        synonyms="Absperrventil|Freistromventil",
    ),
    Family(
        504,
        "Rückflussverhinderer",
        "Rückflussverhinderer {} IG Messing",
        "Messing",
        VALVES,
        "9.80",
        synonyms="Rückschlagventil",
    ),
    Family(
        505,
        "Eckventil",
        "Eckventil {} Messing verchromt",
        "Messing",
        ['1/2"x10', '1/2"x3/8"'],
        "5.20",
        synonyms="Geräteventil",
    ),
    Family(
        506, "Filter", "Schmutzfänger {} IG Rotguss", "Rotguss", VALVES, "10.40", synonyms="Schmutzfilter|Wasserfilter"
    ),
    Family(
        507,
        "Schlauchtülle",
        "Schlauchtülle {} AG Messing",
        "Messing",
        ['1/2"x13', '3/4"x19', '1"x25'],
        "2.20",
        synonyms="Schlauchanschluss",
    ),
    Family(
        601,
        "T-Stück",
        "T-Stück {} Mehrschichtverbundrohr, Pressfitting",
        "Mehrschicht",
        MULTILAYER,
        "6.80",
        synonyms=f"{TEE}|Verbundrohr",
    ),
    Family(
        602,
        "Winkel",
        "Winkel 90° {} Mehrschichtverbundrohr, Pressfitting",
        "Mehrschicht",
        MULTILAYER,
        "4.90",
        synonyms="Verbundrohr",
    ),
    Family(
        603,
        "Muffe",
        "Kupplung {} Mehrschichtverbundrohr, Pressfitting",
        "Mehrschicht",
        MULTILAYER,
        "3.90",
        synonyms="Verbundrohr|Verbinder",
    ),
    Family(
        604,
        "Übergangsmuffe",
        "Reduzierkupplung {} Mehrschichtverbundrohr, Pressfitting",
        "Mehrschicht",
        ["20x16", "26x16", "26x20", "32x26"],
        "4.60",
        "1.3",
        REDUCER,
    ),
    Family(
        605,
        "Übergangsstück",
        "Übergangsstück {} AG Mehrschichtverbundrohr",
        "Mehrschicht",
        MULTILAYER_THREAD,
        "4.40",
        "1.25",
        AG,
    ),
    Family(
        606,
        "Übergangsstück",
        "Übergangsstück {} IG Mehrschichtverbundrohr",
        "Mehrschicht",
        MULTILAYER_THREAD,
        "4.60",
        "1.25",
        IG,
    ),
    Family(
        607,
        "Wandscheibe",
        "Wandscheibe {} IG Mehrschichtverbundrohr",
        "Mehrschicht",
        MULTILAYER_THREAD[:2],
        "6.90",
        "1.2",
        "Deckenwinkel",
    ),
    Family(701, "T-Stück", "Klemm-T-Stück {} PE-Rohr", "PE", PE, "7.20", synonyms=f"{TEE}|Klemmfitting"),
    Family(702, "Winkel", "Klemmwinkel 90° {} PE-Rohr", "PE", PE, "5.40", synonyms="Klemmfitting"),
    Family(703, "Muffe", "Klemmkupplung {} PE-Rohr", "PE", PE, "4.90", synonyms="Klemmfitting|Verbinder"),
    Family(704, "Kappe", "Klemm-Endkappe {} PE-Rohr", "PE", PE, "4.10", synonyms="Klemmfitting|Verschlusskappe"),
    Family(705, "Verschraubung", "Klemmverschraubung {} AG PE-Rohr", "PE", PE_THREAD, "3.80", synonyms="Klemmfitting"),
    Family(
        801,
        "Verschraubung",
        "Klemmringverschraubung {} Messing",
        "Messing",
        COPPER[:5],
        "3.90",
        synonyms="Schneidringverschraubung",
    ),
    Family(
        802,
        "Rohr",
        "Kupferrohr {} mm, 5 m lang",
        "Kupfer",
        COPPER,
        "21.50",
        synonyms="Rohr",
        unit="Rohr",
    ),
    Family(
        803,
        "Rohrschelle",
        "Rohrschelle {} mit Schalldämmung",
        "Stahl verzinkt",
        COPPER,
        "0.75",
        "1.15",
        "Schelle|Rohrschellen",
    ),
    Family(804, "Dichtung", "Flachdichtung {}", "Faser", THREAD[1:7], "0.15", "1.25", "Dichtring", "Packung"),
)


def _spoken_size(family: Family, size: str) -> str:
    plain = "x" not in size and '"' not in size and " mm" not in family.name
    return f"{size} mm" if plain else size


def rows() -> Iterator[tuple[str, ...]]:
    """The catalogue's lines, prices growing with the size and rounded to five cents."""
    for family in FAMILIES:
        for i, size in enumerate(family.sizes):
            price = Decimal(family.price) * Decimal(family.growth) ** i
            price = (price * 20).quantize(Decimal(1), ROUND_HALF_UP) / 20
            name = family.name.format(_spoken_size(family, size))
            number = f"{family.code}{i + 1:03d}"
            yield (number, name, family.type, size, family.material, f"{price:.2f}", family.unit, family.synonyms)


def write(file: TextIO) -> None:
    """Write the CSV file."""
    writer = csv.writer(file, delimiter=";", lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(rows())


if __name__ == "__main__":
    write(sys.stdout)
