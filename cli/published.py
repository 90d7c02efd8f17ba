"""What `callbus up` publishes of the files at its start: what is missing, and what only the files have changed.

Somebody may have published another agent meanwhile (`callbus apply`, the console). `var/run/published.json` remembers
what an earlier `up` put there; anything else on the bus is somebody's wish and stays.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue

from cli.apply import checked, put
from cli.config_files import Reading
from cli.state import replace_file
from libs.contracts.wire import config_decoder


async def publish_missing(client: Client, reading: Reading, record: Path) -> list[str]:
    """Publish what is missing or changed in the files alone; one sentence for each document left as it is.

    Raises:
        ConfigRefused: a route names an agent that is nowhere.
        OSError: the record cannot be written.
    """
    store = await checked(client, reading)
    ours = _read(record)
    left = []
    for document in reading.documents:
        stored = await _stored(store, document.key)
        if stored is not None and config_decoder().decode(stored) == document:
            ours[document.key] = _digest(stored)
        elif stored is None or ours.get(document.key) == _digest(stored):
            ours[document.key] = _digest(await put(store, document))
        else:
            left.append(
                f"{document.kind} {document.name} differs from deploy/config (applied from elsewhere): left as it is"
            )
    replace_file(record, json.dumps(ours, indent=2))
    return left


async def _stored(store: KeyValue, key: str) -> bytes | None:
    try:
        return (await store.get(key)).value or b""
    except KeyNotFoundError:
        return None


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def _read(record: Path) -> dict[str, str]:
    try:
        found = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
