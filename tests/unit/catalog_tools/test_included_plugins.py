"""Who is calling, and a message for somebody: the plug-ins that come with callbus."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from libs.contracts.rpc import RpcRequest
from libs.contracts.tool import ToolRequest
from libs.plugins.runner import PluginRunner
from services.catalog_tools.app import opened
from services.catalog_tools.catalog import Catalog
from services.catalog_tools.customers import Crm, CrmError, parse
from services.catalog_tools.included import CustomerLookup, TakeMessage
from services.catalog_tools.queries import Queries
from tests.support.builders import DATABASES, database_url
from tests.support.http import app_of, serving

CUSTOMERS = """Telefon;Name;Firma;Kundennummer
030 1234567;Frau Muster;Muster Haustechnik;K-17
+43 1 5811234;Herr Beispiel;;
"""


@pytest.fixture(params=DATABASES)
async def sessions(request, tmp_path):
    async with database_url(request.param, tmp_path) as url, opened(url) as sessions:
        yield sessions


def runner(plugin):
    return PluginRunner(plugin, Counter(), in_thread=False)


def request(tool, tool_call_id="t1", caller="+49301234567", **arguments):
    return ToolRequest(
        call="c",
        org="default",
        epoch=1,
        tool_call_id=tool_call_id,
        name=tool,
        arguments=arguments,
        deadline_at=datetime.now(UTC) + timedelta(seconds=5),
        caller=caller,
        agent="a",
    )


async def query(sessions, verb, **parameters):
    return await Queries(Catalog(sessions), sessions).answer(verb, RpcRequest(org="default", parameters=parameters))


@asynccontextmanager
async def crm(answer):
    async def customers(asked):
        assert asked.headers["Authorization"] == "Bearer t0ken"
        return answer(asked.query["phone"])

    async with serving(app_of(web.get("/customers", customers))) as url:
        yield Crm(f"{url}/customers?phone={{number}}", "t0ken", 0.3)


async def test_a_customer_is_found_by_the_number_they_call_from(sessions):
    assert await query(sessions, "import_customers", csv=CUSTOMERS) == {"imported": 2, "errors": []}
    lookup = runner(CustomerLookup(sessions, None))
    found = await lookup.answer(request("customer_lookup"))
    customer = {"name": "Frau Muster", "company": "Muster Haustechnik", "customer_number": "K-17"}
    assert found.output == {"found": True, "customer": customer}
    for caller in ("+49309999999", "anonymous", ""):
        assert not (await lookup.answer(request("customer_lookup", caller=caller))).output["found"]
    other = request("customer_lookup").model_copy(update={"org": "other"})
    assert not (await lookup.answer(other)).output["found"]


async def test_the_crm_comes_first_and_the_table_helps_out(sessions):
    await query(sessions, "import_customers", csv=CUSTOMERS)
    known = {"+49301234567": {"name": "Frau CRM", "open_orders": 2, "address": {"city": "Berlin"}}}

    def answer(phone):
        return web.json_response([known[phone]] if phone in known else [], status=200)

    async with crm(answer) as service:
        lookup = runner(CustomerLookup(sessions, service))
        found = (await lookup.answer(request("customer_lookup"))).output["customer"]
        assert found == {"name": "Frau CRM", "open_orders": 2}
        fallback = await lookup.answer(request("customer_lookup", caller="+4315811234"))
        assert fallback.output["customer"]["name"] == "Herr Beispiel"
    away = runner(CustomerLookup(sessions, service))
    assert (await away.answer(request("customer_lookup"))).output["customer"]["name"] == "Frau Muster"
    assert not (await away.answer(request("customer_lookup", caller="+49309999999"))).ok


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_a_crm_that_answers_nonsense_is_a_sentence(sessions, status):
    async with crm(lambda _: web.Response(text="<html>", status=status)) as service:
        reply = await runner(CustomerLookup(sessions, service)).answer(request("customer_lookup"))
    assert reply.error == "The customers cannot be looked up at the moment."


async def test_an_answer_of_the_crm_without_a_length_is_bounded(sessions):
    async def endless(asked):
        answer = web.StreamResponse()
        await answer.prepare(asked)
        with suppress(OSError):
            for _ in range(40):
                await answer.write(b" " * 10_000)
            await answer.write(b'{"name": "Frau Muster"}')
        return answer

    async with serving(app_of(web.get("/customers/acme", endless))) as url:
        service = Crm(f"{url}/customers/{{org}}?phone={{number}}", None, 2)
        with pytest.raises(CrmError, match="too large"):
            await service.find("acme", "+49301234567")
        assert await service.find("other", "+49301234567") is None  # each organisation has its own customers


def test_mistakes_of_a_file_are_named_by_line():
    rows, errors = parse("phone,name\n0301234567,A\nabc,B\n0301234567,C\n0301234568,\n030123,D,E\n", "default", "DE")
    assert [row["phone"] for row in rows] == ["+49301234567"]
    assert [error.partition(":")[0] for error in errors] == ["line 3", "line 4", "line 5", "line 6"]
    with pytest.raises(ValueError, match="unknown"):
        parse("phone,name,colour\n", "default", "DE")
    with pytest.raises(ValueError, match="missing column name"):
        parse("phone\n", "default", "DE")


async def test_a_file_with_mistakes_changes_nothing(sessions):
    await query(sessions, "import_customers", csv=CUSTOMERS)
    report = await query(sessions, "import_customers", csv="phone,name\nabc,B\n")
    assert report["imported"] == 0
    assert len(report["errors"]) == 1
    assert (await runner(CustomerLookup(sessions, None)).answer(request("customer_lookup"))).output["found"]


async def test_a_message_is_stored_once_also_by_two_replicas(sessions):
    boxes = [runner(TakeMessage(sessions)), runner(TakeMessage(sessions))]
    asked = request("take_message", text="Bitte um Rückruf", name="Frau Muster", recipient="Einkauf")
    replies = await asyncio.gather(*(box.answer(asked) for box in (*boxes, *boxes)))
    assert all(reply.ok for reply in replies), replies
    assert len({reply.output["message"] for reply in replies}) == 1
    second = await boxes[0].answer(request("take_message", "t2", text="Noch etwas", number="+491701234567"))
    found = (await query(sessions, "messages"))["messages"]
    assert [message["text"] for message in found] == ["Noch etwas", "Bitte um Rückruf"]
    assert [message["number"] for message in found] == ["+491701234567", "+49301234567"]
    assert second.output["number"] == "+491701234567"
    assert (await query(sessions, "messages", call="other"))["messages"] == []
