"""The sample configuration with the demo's agent on another backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli import checkout
from cli.demo.script import CALLEE
from cli.yaml_text import construct, documents
from libs.contracts.agent import Backend

_OF_ITS_BACKEND = ("turn_taking", "transcription")  # what the sample says of these is about the Realtime API


def configs(backend: Backend, folder: Path) -> list[Path]:
    """What the demo applies: the sample itself, or a copy of it in `folder`."""
    if backend == "realtime":
        return [checkout.CONFIG]
    folder.mkdir()
    for file in sorted(checkout.CONFIG.glob("*.yaml")):
        read = (construct(loader, node) for node, loader in documents(file.read_text("utf-8")))
        text = "\n---\n".join(json.dumps(_changed(document, backend), ensure_ascii=False) for document in read)
        (folder / file.name).write_text(text, "utf-8")  # JSON is YAML
    return [folder]


def _changed(document: Any, backend: Backend) -> Any:
    if not isinstance(document, dict) or document.get("kind") != "agent" or document.get("name") != CALLEE:
        return document
    return {key: value for key, value in document.items() if key not in _OF_ITS_BACKEND} | {"backend": backend}
