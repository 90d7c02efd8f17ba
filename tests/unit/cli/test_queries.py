"""Tables and CSV of what is stored."""

import csv
import io
from datetime import datetime

import pytest
from rich.console import Console

from cli.queries import local_time, print_table, table, write_orders_csv

CALL = "01M7YKDVNBV5GHX9F6MASP3RV0"


def test_on_a_terminal_a_call_is_one_line_with_its_whole_id_and_numbers() -> None:
    rows = table("call", "began", "caller", "agent", "outcome", "talked", "cost $")
    rows.add_row(CALL, "2026-11-21 08:26", "+493012345678", "bestellung", "ordered", "123.4 s", "0.1234")
    output = io.StringIO()
    print_table(Console(file=output, width=80, force_terminal=True, color_system=None), rows)
    _, line = output.getvalue().splitlines()
    assert line.startswith(f"{CALL} 2026-11-21 08:26 +4930")
    assert line.rstrip().endswith(" 123.4 s 0.1234")
    assert "…" in line
    assert len(line.rstrip()) <= 80


def test_programs_get_every_word_of_a_table_on_one_line() -> None:
    rows = table("call", "began", "caller", "agent", "outcome")
    caller = "+4930123456 " * 30 + "x"
    rows.add_row(CALL, "2026-11-21 08:26", caller, "bestellung", "ordered")
    output = io.StringIO()
    print_table(Console(file=output, width=80), rows)
    _, line = output.getvalue().splitlines()
    assert caller in line
    assert line.rstrip().endswith("ordered")


def test_times_are_shown_as_here() -> None:
    iso = "2026-11-21T08:26:38.123+00:00"
    assert local_time(iso) == f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M}"
    assert local_time(None) == ""


def test_orders_become_one_row_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"article_number": "101004", "name": "T-Stück, 22", "quantity": 10, "unit": "Stück"}
    prices = {"unit_price_eur": "3.85", "line_total_eur": "38.50"}
    order = {"number": "100001", "placed_at": "2026-11-21", "call": CALL, "caller": "+49", "customer": None}
    write_orders_csv([{**order, "lines": [{**line, **prices}, {**line, **prices}]}])
    header, first, second = csv.reader(io.StringIO(capsys.readouterr().out))
    assert first == second
    expected = {"number": "100001", "name": "T-Stück, 22", "quantity": "10", "customer": "", "line_total_eur": "38.50"}
    assert expected.items() <= dict(zip(header, first, strict=True)).items()
