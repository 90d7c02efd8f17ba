"""`callbus messages`, `callbus customers import`, `callbus plugin list`, with a service like catalog_tools."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import nats
from typer.testing import CliRunner

from cli.main import app
from libs.contracts.rpc import RpcReply
from tests.support.nats import nats_server

MESSAGE = {
    "id": 3,
    "recipient": "Einkauf",
    "name": "Frau Muster",
    "number": "+4930123456",
    "text": "Bitte um Rückruf",
    "taken_at": "2026-11-21T09:00:00+00:00",
}


@asynccontextmanager
async def catalog_tools(**answers):
    """A bus with the service on it; what it was asked."""
    async with nats_server() as server:
        client = await nats.connect(server.url)
        asked = []

        async def answer(message):
            verb = message.subject.rpartition(".")[2]
            asked.append((verb, json.loads(message.data)["parameters"]))
            await message.respond(RpcReply(ok=True, data=answers[verb]).to_json())

        await client.subscribe("v1.rpc.catalog_tools.*", cb=answer)
        await client.flush()
        yield server.url, asked
        await client.close()


async def callbus(*words):
    return await asyncio.to_thread(CliRunner().invoke, app, list(words))


async def test_messages_are_listed():
    async with catalog_tools(messages={"messages": [MESSAGE]}) as (url, asked):
        shown = await callbus("messages", "--limit", "7", "--nats", url)
        assert "Frau Muster" in shown.output
        assert "Bitte um Rückruf" in shown.output
        assert asked == [("messages", {"limit": 7})]
        assert json.loads((await callbus("messages", "--json", "--nats", url)).stdout) == [MESSAGE]


async def test_customers_are_imported_or_their_mistakes_named(tmp_path):
    file = tmp_path / "customers.csv"
    file.write_text("phone,name\n+4930123456,Frau Muster\n", "utf-8")
    async with catalog_tools(import_customers={"imported": 1, "errors": []}) as (url, asked):
        done = await callbus("customers", "import", str(file), "--nats", url)
        assert "1 customers imported" in done.output
        assert asked == [("import_customers", {"csv": file.read_text("utf-8"), "org": "default"})]
    async with catalog_tools(import_customers={"imported": 0, "errors": ["line 2: name is empty"]}) as (url, _):
        refused = await callbus("customers", "import", str(file), "--nats", url)
        assert refused.exit_code != 0
        assert "nothing was changed" in refused.output + refused.stderr


async def test_plugins_are_listed():
    assert json.loads((await callbus("plugin", "list", "--json")).stdout) == []
