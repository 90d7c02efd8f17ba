"""The examples work as their comments say, and installed packages are found by their entry points."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest
import pytest_asyncio

from cli.config_files import read_files
from examples.crm_server import make_app
from libs.plugins.loading import load
from libs.plugins.runner import PluginRunner
from services.catalog_tools.customers import Crm, CrmError
from tests.support.http import serving
from tests.support.nats import nats_server
from tests.unit.plugins.test_host import worker
from tests.unit.plugins.test_runner import request

EXAMPLES = Path("examples")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server():
    async with nats_server() as running:
        yield running


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example package as pip would have it: its modules, and the metadata that names its entry point."""
    metadata = tmp_path / "callbus_stock_plugin-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: callbus-stock-plugin\nVersion: 0.1.0\n")
    points = "[callbus.plugins]\nstock_level = stock_plugin:StockLevel\nbroken = stock_plugin.missing:Nothing\n"
    (metadata / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES / "stock_plugin"))
    monkeypatch.setenv("STOCK_FILE", str(EXAMPLES / "stock_plugin" / "stock.csv"))


async def test_an_installed_plug_in_is_found_and_serves(installed):
    loaded = load(["*"])
    assert [plugin.name for plugin in loaded.plugins] == ["stock_level"]
    assert [problem.partition(":")[0] for problem in loaded.problems] == ["plug-in broken"]
    runner = PluginRunner(loaded.plugins[0], Counter())
    await runner.start()
    found = await runner.answer(request("stock_level", article_number="101004"))
    assert found.output == {"article_number": "101004", "in_stock": 140}
    missing = await runner.answer(request("stock_level", "t2", article_number="9"))
    assert missing.error == "There is no stock figure for article 9."
    await runner.stop()


async def test_a_plug_in_whose_file_is_missing_does_not_start(installed, monkeypatch):
    monkeypatch.setenv("STOCK_FILE", "no-such-file.csv")
    runner = PluginRunner(load(["stock_level"]).plugins[0], Counter())
    with pytest.raises(FileNotFoundError):
        await runner.start()
    runner._thread.close()


async def test_a_tool_in_nothing_but_a_nats_client_is_a_tool(server):
    process = await asyncio.create_subprocess_exec(sys.executable, "examples/opening_hours_tool.py", server.url)
    try:
        async with worker(server.url, "opening_hours") as (_, caller):
            assert "siebzehn" in (await caller.call("1", "opening_hours", {"place": "Lager"})).output["say"]
            assert (await caller.call("2", "opening_hours", {"place": "Mond"})).error == "There are Lager, Büro."
    finally:
        process.terminate()
        await process.wait()


async def test_the_example_crm_tells_who_calls():
    async with serving(make_app("secret")) as address:
        url = f"{address}/customers?phone={{number}}"
        assert (await Crm(url, "secret", 1).find("default", "+4930123456"))["company"] == "Beispiel Haustechnik GmbH"
        assert await Crm(url, "secret", 1).find("default", "+4930999999") is None
        with pytest.raises(CrmError, match="401"):
            await Crm(url, "wrong", 1).find("default", "+4930123456")


def test_the_example_documents_are_valid():
    reading = read_files([EXAMPLES / "tools.yaml"])
    assert reading.problems == []
    assert sorted(reading.placed) == ["mcp.default.crm", "tool.default.delivery_date"]


def test_parameters_that_are_no_json_schema_are_refused_with_their_line(tmp_path):
    file = tmp_path / "tool.yaml"
    file.write_text(
        "kind: tool\nname: x\ndescription: d\nurl: https://x.example/\n"
        "parameters:\n  type: object\n  properties: {a: {type: strnig}}\n"
    )
    [problem] = read_files([file]).problems
    assert str(problem).startswith(f"{file}:5: tool.parameters.properties.a.type: 'strnig' is not valid")
