"""Tools that documents declare: an HTTP request, the tools of an MCP server; on the bus as documents say."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
import uvicorn
from aiohttp import web
from mcp.server.mcpserver import MCPServer
from mcp.types import Tool
from pydantic import ValidationError

from libs.contracts import subjects
from libs.contracts.agent import AgentConfig, Limits
from libs.contracts.external_tools import HttpTool, McpTools
from libs.contracts.offer import Offer
from libs.contracts.tool import ToolRequest
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.streams import bucket, provision
from services.ai_session.tools import ToolCaller, ToolDirectory
from services.catalog_tools import mcp_server
from services.catalog_tools.declared import DeclaredTools
from services.catalog_tools.guard import ForbiddenHostError, Guard
from services.catalog_tools.http_request import RequestError, answer_of, build
from services.catalog_tools.http_tool import HttpToolClient
from services.catalog_tools.mcp_server import McpServer
from tests.support.http import app_of, serving
from tests.support.nats import nats_server

LOOPBACK = Guard(["127.0.0.1"])
PARAMETERS = {
    "type": "object",
    "properties": {"article": {"type": "string"}, "count": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["article"],
}


def tool(url="https://shop.example/stock/{article}", **fields):
    fields = {"name": "stock", "description": "Tells the stock.", "parameters": PARAMETERS} | fields
    return HttpTool(url=url, **fields)


def request(name="stock", **arguments):
    return ToolRequest(
        call="c1",
        org="default",
        epoch=1,
        tool_call_id="t1",
        name=name,
        arguments=arguments,
        deadline_at=datetime.now(UTC) + timedelta(seconds=5),
        caller="+4930123",
    )


# -- the request, without a network -----------------------------------------------------------------------------------


def test_values_are_escaped_and_cannot_leave_their_place():
    call = build(tool(query={"n": "{count}", "note": "{note}"}), request(article="4711/8 ü?x=1", count=3), {})
    assert call.url == "https://shop.example/stock/4711%2F8%20%C3%BC%3Fx%3D1?n=3"
    for value in ("..", ".", ""):
        with pytest.raises(RequestError):
            build(tool(), request(article=value), {})
    with pytest.raises(RequestError, match="control"):
        build(tool(headers={"X-Note": "{note}"}), request(article="1", note="a\r\nHost: evil"), {})


def test_the_body_keeps_the_kinds_of_its_values():
    body = {
        "article": "{article}",
        "lines": [{"count": "{count}"}],
        "text": "Anruf von {call.caller}",
        "note": "{note}",
    }
    call = build(tool(method="POST", body=body), request(article="1", count=3), {})
    expected = {"article": "1", "lines": [{"count": 3}], "text": "Anruf von +4930123"}
    assert json.loads(call.body) == expected
    assert call.headers == {"Content-Type": "application/json"}


def test_secrets_are_named_and_never_written():
    call = build(tool(headers={"Authorization": "Bearer {secret:shop}"}), request(article="1"), {"shop": "s3cret"})
    assert call.headers == {"Authorization": "Bearer s3cret"}
    with pytest.raises(ValueError, match="TOOL_SECRETS has no 'shop'"):
        build(tool(headers={"A": "{secret:shop}"}), request(article="1"), {})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"url": "https://{article}.example/"}, "host"),
        ({"url": "ftp://shop.example/"}, "http"),
        ({"url": "https://user:pw@shop.example/"}, "password"),
        ({"url": "https://shop.example/{size}"}, "none of its parameters"),
        ({"url": "https://shop.example/{secret:x}"}, "secrets"),
        ({"body": {"x": "{secret:x}"}}, "secrets"),
        ({"parameters": {"type": "string"}}, "object"),
        ({"parameters": {"type": "object", "properties": {"a": {"$ref": "#/x"}}}}, "ref"),
        ({"name": "two words"}, "name"),
    ],
)
def test_a_document_that_cannot_work_is_refused(fields, why):
    with pytest.raises(ValidationError, match=why):
        tool(**fields)


@pytest.mark.parametrize(
    ("response", "status", "data", "output"),
    [
        ({}, 200, b'{"stock": 7}', {"stock": 7}),
        ({"pointer": "/items/0/stock"}, 200, b'{"items": [{"stock": 7}]}', 7),
        ({"template": "Noch {stock.free} Stück."}, 200, b'{"stock": {"free": 7}}', {"say": "Noch 7 Stück."}),
        ({}, 200, b"sieben", {"text": "sieben"}),
        ({}, 204, b"", None),
    ],
)
def test_the_model_is_told_what_matters_of_an_answer(response, status, data, output):
    reply = answer_of(tool(response=response), status, data)
    assert reply.ok
    assert reply.output == output


@pytest.mark.parametrize(
    ("response", "status", "data"),
    [
        ({}, 500, b"{}"),
        ({}, 302, b""),
        ({"pointer": "/items/0"}, 200, b'{"items": []}'),
        ({"most_bytes": 100}, 200, b'"' + b"x" * 200 + b'"'),
        ({}, 200, b'{"a": NaN}'),
    ],
)
def test_any_other_answer_is_a_sentence(response, status, data):
    reply = answer_of(tool(response=response), status, data)
    assert not reply.ok
    assert "stock" in reply.error


# -- where it may go ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "10.1.2.3",
        "169.254.169.254",
        "[::ffff:10.0.0.1]",
        "0.0.0.0",
        "[fe80::1]",
        "224.0.0.1",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[::127.0.0.1]",
        "[fec0::1]",
    ],
)
def test_private_addresses_are_forbidden_unless_listed(host):
    with pytest.raises(ForbiddenHostError):
        Guard([]).check_literal(f"http://{host}:80/x")
    Guard(["127.0.0.0/8", "::/0", "10.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "224.0.0.0/4"]).check_literal(
        f"http://{host}/x"
    )


async def test_a_name_is_judged_by_its_addresses():
    with pytest.raises(ForbiddenHostError):
        await Guard([]).check("http://localhost/x")
    await Guard(["localhost"]).check("http://localhost/x")


# -- over a network ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def shop():
    """An HTTP server on loopback; its URL."""

    async def stock(asked):
        match asked.match_info["article"]:
            case "redirect":
                raise web.HTTPFound("/stock/of-another-place")
            case "slow":
                await asyncio.sleep(1)
            case "huge":
                return web.Response(body=b"x" * 2_000_000)
        return web.json_response({"article": asked.match_info["article"], "key": asked.headers.get("X-Key")})

    async with serving(app_of(web.get("/stock/{article}", stock))) as url:
        yield url


async def test_a_declared_request_is_made_and_its_faults_are_sentences():
    async with shop() as shop_url, HttpToolClient(LOOPBACK, {"k": "v"}, Counter()) as http:
        stock = tool(f"{shop_url}/stock/{{article}}", headers={"X-Key": "{secret:k}"}, timeout_ms=300)
        assert (await http.answer(stock, request(article="1"))).output == {"article": "1", "key": "v"}
        for article in ("redirect", "slow", "huge"):
            assert not (await http.answer(stock, request(article=article))).ok
        wrong = await http.answer(stock, request(article=1))
        assert "is not of type 'string'" in wrong.error
        closed = tool("http://127.0.0.1:1/{article}")
        assert (await http.answer(closed, request(article="1"))).error == "The tool stock failed."
        for elsewhere in ("http://127.0.0.2/{article}", "http://localhost/{article}", "http://2130706433/{article}"):
            assert not (await http.answer(tool(elsewhere), request(article="1"))).ok
        assert http._counters["http_answered"] == 1


async def test_a_cookie_of_one_organisation_s_request_is_not_sent_with_another_s():
    cookies = []

    async def login(asked):
        cookies.append(asked.headers.get("Cookie"))
        answer = web.json_response({})
        answer.set_cookie("session", asked.query["org"])
        return answer

    served = serving(app_of(web.get("/login", login)))
    async with served as url, HttpToolClient(Guard(["localhost"]), {}, Counter()) as http:
        by_name = url.replace("127.0.0.1", "localhost")  # cookies are for names
        for org in ("ours", "theirs"):
            shared = tool(f"{by_name}/login", org=org, query={"org": "{call.org}"})
            asked = request(article="1").model_copy(update={"org": org})
            assert (await http.answer(shared, asked)).ok
    assert cookies == [None, None]


async def test_a_secret_of_another_organisation_cannot_be_named():
    async with shop() as shop_url, HttpToolClient(LOOPBACK, {"acme.k": "v", "k": "everybody's"}, Counter()) as http:
        for org, name, told in (("acme", "acme.k", "v"), ("other", "acme.k", None), ("other", "k", "everybody's")):
            url = f"{shop_url}/stock/{{article}}"
            asking = tool(url, org=org, headers={"X-Key": f"{{secret:{name}}}"})
            reply = await http.answer(asking, request(article="1").model_copy(update={"org": org}))
            assert (reply.output or {}).get("key") == told
    theirs = McpTools(org="other", name="crm", url="http://127.0.0.1/mcp", token="acme.k")
    assert McpServer(theirs, LOOPBACK, {"acme.k": "v"}, None, Counter())._secrets == {}


async def test_a_server_that_speaks_no_http_brings_no_secret_into_the_log(caplog, capsys):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nno header\x00\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, HttpToolClient(LOOPBACK, {"k": "s3cret"}, Counter()) as http:
        stock = tool(f"http://127.0.0.1:{port}/stock", query={"key": "{secret:k}"})
        assert (await http.answer(stock, request(article="1"))).error == "The tool stock failed."
    printed = capsys.readouterr()
    logged = caplog.text + printed.out + printed.err
    assert "a declared tool failed" in logged
    assert "s3cret" not in logged


async def test_a_reference_in_the_parameters_fetches_nothing(tmp_path):
    (tmp_path / "schema.json").write_text('{"enum": ["what the file says"]}')
    field = {"$dynamicRef": (tmp_path / "schema.json").as_uri()}
    with pytest.raises(ValidationError, match="dynamicRef"):
        tool(parameters={"type": "object", "properties": {"article": field}})
    slipped_through = tool().model_copy(update={"parameters": {"type": "object", "properties": {"article": field}}})
    async with HttpToolClient(LOOPBACK, {}, Counter()) as http:
        assert (await http.answer(slipped_through, request(article="1"))).error == "The tool stock failed."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nats():
    async with nats_server() as running:
        yield running


@asynccontextmanager
async def declared(url, secrets=None):
    """The service's part that follows the documents, and a worker's way to tools."""
    bus, worker = await Bus.connect(url, "ct-1"), await Bus.connect(url, "wk-1")
    await provision(bus.js)
    config = ConfigCopy(bus)
    tools = DeclaredTools(bus, config, LOOPBACK, secrets or {}, frozenset({"search_products"}))
    tasks = [asyncio.create_task(config.run()), asyncio.create_task(tools.run())]
    try:
        store = await bucket(bus.js, subjects.KV_CONFIG)
        neighbour = tool("https://x.example/", name="neighbour")  # a directory never goes from something to nothing
        await store.put(neighbour.key, neighbour.to_json())
        yield store, worker, ToolDirectory(worker)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await bus.close()
        await worker.close()


def caller(bus, directory, *names, org="default"):
    agent = AgentConfig(org=org, name="x", tools=names, limits=Limits(tool_timeout_s=3))
    offer = Offer(call="c", org=org, gw="g", epoch=1, caller="+49301234567", callee="b", agent=agent)
    return ToolCaller(offer, bus, directory)


async def until(directory, org, name, *, is_there=True):
    async with asyncio.timeout(10):
        while True:
            await directory.refresh()
            found = directory.find(org, name)
            if (found is not None) is is_there:
                return found


async def test_a_document_is_a_tool_at_once_and_no_longer_when_it_is_gone(nats):
    async with shop() as shop_url, declared(nats.url) as (store, bus, directory):
        document = tool(f"{shop_url}/stock/{{article}}")
        await store.put(document.key, document.to_json())
        foreign = tool("https://x.example/", name="search_products", parameters={"type": "object", "properties": {}})
        await store.put(foreign.key, foreign.to_json())
        described = await until(directory, "default", "stock")
        assert described.parameters == PARAMETERS
        assert described.idempotent
        asking = caller(bus, directory, "stock", "search_products")
        assert (await asking.call("t", "stock", {"article": "9"})).output["article"] == "9"
        assert directory.find("default", "search_products") is None  # a name of the service's own
        assert directory.find("other", "stock") is None  # another organisation's
        changed = document.model_copy(update={"description": "New."})
        await store.put(changed.key, changed.to_json())
        async with asyncio.timeout(10):
            while (await until(directory, "default", "stock")).description != "New.":
                pass
        await store.delete(document.key)
        await until(directory, "default", "stock", is_there=False)


@asynccontextmanager
async def mcp(port=0):
    """A real MCP server on loopback; its port."""
    server = MCPServer("crm")

    @server.tool()
    def invoices(customer: str, open_only: bool = True) -> list[dict[str, str]]:
        """Lists a customer's invoices."""
        return [{"customer": customer, "number": "R-1"}]

    @server.tool()
    def breaks() -> str:
        """Always fails."""
        raise ValueError("no such customer")

    @server.tool()
    async def hangs() -> str:
        """Never answers."""
        await asyncio.sleep(60)
        return ""

    @server.tool()
    def secret() -> str:
        """Not for agents."""
        return "x"

    listening = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(server.streamable_http_app(), log_level="error", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        running.should_exit = running.force_exit = True
        await task
        listening.close()


async def test_the_tools_of_an_mcp_server_are_tools_of_every_agent(nats, monkeypatch):
    monkeypatch.setattr(mcp_server, "LIST_EVERY_S", 0.3)
    async with declared(nats.url) as (store, bus, directory):
        async with mcp() as port:
            document = McpTools(
                name="crm",
                url=f"http://127.0.0.1:{port}/mcp",
                allowed_tools=("invoices", "breaks", "hangs"),
                timeout_ms=500,
            )
            await store.put(document.key, document.to_json())
            described = await until(directory, "default", "crm_invoices")
            assert described.description == "Lists a customer's invoices."
            assert described.parameters["required"] == ["customer"]
            assert directory.find("default", "crm_secret") is None
            asking = caller(bus, directory, "crm_invoices", "crm_breaks", "crm_hangs", "crm_secret")
            reply = await asking.call("1", "crm_invoices", {"customer": "Muster"})
            assert reply.output == [{"customer": "Muster", "number": "R-1"}]
            assert "breaks" in (await asking.call("2", "crm_breaks", {})).error
            assert "in time" in (await asking.call("3", "crm_hangs", {})).error
            assert not (await asking.call("4", "crm_secret", {})).ok
            assert (await asking.call("5", "crm_invoices", {"customer": "Muster"})).ok
        await until(directory, "default", "crm_invoices", is_there=False)
        async with mcp(port):  # it is back
            await until(directory, "default", "crm_invoices")
            assert (await asking.call("6", "crm_invoices", {"customer": "Muster"})).ok
        await store.delete(document.key)


async def test_an_mcp_server_is_connected_at_the_address_that_was_judged(monkeypatch):
    """A name may lead elsewhere a moment later (DNS rebinding): nobody looks it up a second time."""

    async def resolve(_, host, port=0, family=0):
        return [{"hostname": host, "host": "127.0.0.2", "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr("services.catalog_tools.guard.ThreadedResolver.resolve", resolve)
    reached, lost = asyncio.Event(), asyncio.Event()

    async def connected(_, writer):
        reached.set()
        writer.close()

    async def offer(_):
        lost.set()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        url = f"http://localhost:{server.sockets[0].getsockname()[1]}/mcp"
        only_there = Guard(["127.0.0.2"])
        task = asyncio.create_task(McpServer(McpTools(name="crm", url=url), only_there, {}, offer, Counter()).run())
        async with asyncio.timeout(10):
            await lost.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert not reached.is_set()


def test_tools_of_one_name_or_too_large_are_left_out():
    document = McpTools(name="crm", url="http://127.0.0.1/mcp")
    server = McpServer(document, LOOPBACK, {}, None, Counter())
    large = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(1000)}}
    listed = [Tool(name=name, input_schema={"type": "object"}) for name in ("find.it", "find_it", "other")]
    listed.append(Tool(name="large", input_schema=large))
    assert [tool.name for tool in server._usable(listed)] == ["find.it", "other"]
    assert server._counters == {"mcp_unusable": 2}
