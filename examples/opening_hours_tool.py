"""A tool without callbus: nothing but a NATS client. The same few lines exist in every language that has one.

    python examples/opening_hours_tool.py nats://127.0.0.1:4222

A tool is (1) a subscription to `v1.*.tool.<name>` in a queue group, which answers JSON requests with
`{"ok": true, "output": ...}` or `{"ok": false, "error": "One sentence."}`, and (2) an answer to `$SRV.INFO`, from which
workers learn that it exists (the NATS micro protocol; clients with micro support do it by themselves).
"""

from __future__ import annotations

import asyncio
import json
import sys

import nats
from nats.aio.msg import Msg

NAME = "opening_hours"
HOURS = {"Lager": "montags bis freitags von sieben bis siebzehn Uhr", "Büro": "montags bis freitags ab acht Uhr"}
INFO = {
    "name": NAME,
    "id": "opening-hours-1",
    "version": "1.0.0",
    "type": "io.nats.micro.v1.info_response",
    "endpoints": [
        {
            "name": NAME,
            "subject": f"v1.*.tool.{NAME}",
            "queue_group": "q",
            "metadata": {
                "description": "Tells when a part of the company is open.",
                "parameters": json.dumps(
                    {
                        "type": "object",
                        "properties": {"place": {"type": "string", "enum": list(HOURS)}},
                        "required": ["place"],
                    }
                ),
                "idempotent": "true",
                "timeout_ms": "2000",
            },
        }
    ],
}


async def serve(url: str) -> None:
    """Offer the tool until cancelled."""
    client = await nats.connect(url)

    async def answer(message: Msg) -> None:
        request = json.loads(message.data)
        hours = HOURS.get(request["arguments"].get("place", ""))
        known = f"There are {', '.join(HOURS)}."
        reply = {"ok": True, "output": {"say": hours}} if hours else {"ok": False, "error": known}
        await message.respond(json.dumps(reply).encode())

    async def describe(message: Msg) -> None:
        await message.respond(json.dumps(INFO).encode())

    await client.subscribe(f"v1.*.tool.{NAME}", "q", cb=answer)
    await client.subscribe("$SRV.INFO", cb=describe)
    await client.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else "nats://127.0.0.1:4222"))
