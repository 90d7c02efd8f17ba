"""Tables and CSV of what is stored."""

import csv
import io
from datetime import datetime

import pytest
from rich.console import Console

from cli.queries import local_time, table, write_orders_csv

CALL = "01M7YKDVNBV5GHX9F6MASP3RV0"


def test_a_call_id_is_never_cut_however_narrow_the_terminal() -> None:
    rows = table("call", "began", "caller", "agent", "outcome")
    rows.add_row(CALL, "2026-11-21 08:26", "+4930123456", "bestellung", "ordered")
    for width in (50, 80):
        output = io.StringIO()
        Console(file=output, width=width).print(rows)
        assert CALL in output.getvalue()


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
