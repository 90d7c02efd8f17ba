"""Agents, routes, organisations and tools as YAML files: read strictly, every error with file, line and field.

A file holds one or more documents separated by `---`, each with a `kind`. Three keys exist only in files:
`prompt_file` (the agent's prompt in a text file beside), `fallback.wav` and `after_hours.wav` (8 kHz mono, becoming
u-law).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, SchemaError  # type: ignore[import-untyped]
from pydantic import ValidationError

from cli.yaml_text import Loader, YamlProblem, construct, documents
from libs.audio.g711 import Law
from libs.audio.wav import WavError, read_wav
from libs.contracts.agent import AgentConfig
from libs.contracts.config import AnyDocument, OrgConfig, RouteConfig
from libs.contracts.external_tools import HttpTool, McpTools

Document = AnyDocument
_KINDS: dict[str, type[Document]] = {
    "agent": AgentConfig,
    "route": RouteConfig,
    "organisation": OrgConfig,
    "tool": HttpTool,
    "mcp": McpTools,
}
MESSAGE_RATE_HZ = 8000
MESSAGE_MOST_S = 60
MOST_BYTES = 1024 * 1024  # max_payload in deploy/nats/nats.conf


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One error in a file; `str()` is the line that is shown."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Placed:
    """A valid document and where it stands; `agent_line` is the line of a route's `agent`."""

    document: Document
    path: str
    line: int
    agent_line: int


@dataclass
class Reading:
    """What a set of files holds: documents by key, and everything that is wrong with them."""

    placed: dict[str, Placed] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)  # it can be published, but hardly means what it says

    @property
    def documents(self) -> list[Document]:
        """The valid documents in an order in which followers never see a dangling name."""
        order = (OrgConfig, HttpTool, McpTools, AgentConfig, RouteConfig)
        return sorted((p.document for p in self.placed.values()), key=lambda document: order.index(type(document)))


def yaml_files(paths: Iterable[Path]) -> list[Path]:
    """The files meant: files as they are, of directories every `*.yaml` and `*.yml` directly in them.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix in {".yaml", ".yml"})
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist")
    return found


def read_files(paths: Iterable[Path]) -> Reading:
    """Read and check everything; never raises for what a file holds."""
    reading = Reading()
    for path in paths:
        _read_file(path, reading)
    return reading


def check_routes(reading: Reading, published_agents: set[str]) -> None:
    """Add a problem for every route whose agent is neither in the files nor in `published_agents` (KV keys)."""
    for placed in reading.placed.values():
        route = placed.document
        if not isinstance(route, RouteConfig):
            continue
        key = f"agent.{route.org}.{route.agent}"
        if key not in reading.placed and key not in published_agents:
            known = sorted(p.document.name for p in reading.placed.values() if isinstance(p.document, AgentConfig))
            hint = f"; the files hold {', '.join(known)}" if known else ""
            text = f"route.agent: there is no agent named {route.agent!r} in organisation {route.org!r}{hint}"
            reading.problems.append(Problem(placed.path, placed.agent_line, text))


def _read_file(path: Path, reading: Reading) -> None:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reading.problems.append(Problem(str(path), 1, f"cannot be read: {error}"))
        return
    try:
        for node, loader in documents(text):
            if not _is_empty(node):
                _Document(path, node, loader, reading).read()
    except YamlProblem as error:
        reading.problems.append(Problem(str(path), error.line, f"not YAML: {error}"))


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


class _Document:
    """One document of a file on its way to a model."""

    def __init__(self, path: Path, node: yaml.Node, loader: Loader, reading: Reading) -> None:
        self._path, self._node, self._loader, self._reading = path, node, loader, reading
        self._bad = False

    def read(self) -> None:
        """Check it; into `reading` goes either the document or its problems."""
        for place, key in _duplicates(self._node):
            self._problem(place, f"{key} stands here twice")
        data = construct(self._loader, self._node)
        if not isinstance(data, dict):
            self._problem(self._node, "a document is a mapping that begins with `kind: agent`, say")
            return
        kind = data.get("kind")
        model = _KINDS.get(kind) if isinstance(kind, str) else None
        if model is None:
            said = f"not {kind!r}" if kind is not None else "and is missing"
            self._problem(_node_at(self._node, ("kind",)), f"kind: is one of {', '.join(_KINDS)}, {said}")
            return
        self._include(data, str(kind))
        try:
            document = model.model_validate(data, extra="forbid")
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False, include_input=False):
                self._explain(str(kind), detail["loc"], detail["type"], detail["msg"])
            return
        if isinstance(document, HttpTool):
            self._check_parameters(document)
        if not self._bad:
            self._place(document)

    def _check_parameters(self, tool: HttpTool) -> None:
        """Parameters that are no JSON Schema would refuse every call."""
        try:
            Draft202012Validator.check_schema(tool.parameters)
        except SchemaError as error:
            where = ".".join(("tool", "parameters", *map(str, error.absolute_path)))
            self._problem(_node_at(self._node, ("parameters",)), f"{where}: {error.message[:200]}")

    def _place(self, document: Document) -> None:
        key, line = document.key, _line(self._node)
        try:
            size_bytes = len(document.to_json())
        except ValueError:  # `backend_options` may hold anything that YAML can write
            self._problem(self._node, f"{document.kind} {document.name!r} holds a value that JSON cannot (binary, say)")
            return
        if size_bytes > MOST_BYTES:
            text = (
                f"{document.kind} {document.name!r} is larger than the bus takes ({size_bytes} of {MOST_BYTES} bytes)"
            )
            self._problem(self._node, text)
            return
        if isinstance(document, RouteConfig) and not document.match:
            at = _line(_node_at(self._node, ("match",)))
            text = "route.match: is empty, so that no call ever takes this route"
            self._reading.warnings.append(Problem(str(self._path), at, text))
        if (other := self._reading.placed.get(key)) is not None:
            self._problem(self._node, f"{document.kind} {document.name!r} is also defined in {other.path}:{other.line}")
            return
        if isinstance(document, RouteConfig):
            self._warn_of_rivals(document)
        agent_line = _line(_node_at(self._node, ("agent",)))
        self._reading.placed[key] = Placed(document, str(self._path), line, agent_line)

    def _warn_of_rivals(self, route: RouteConfig) -> None:
        """Where two routes serve the same numbers alike, only the alphabet decides."""
        for placed in self._reading.placed.values():
            other = placed.document
            if not isinstance(other, RouteConfig) or other.rivalry != route.rivalry:
                continue
            for pattern in sorted(set(route.match) & set(other.match)):
                first = min(route, other, key=lambda each: (each.name, each.org))
                text = (
                    f"route.match: {pattern!r} is also served by route {other.name!r} ({placed.path}:{placed.line}); "
                    f"{first.name!r} wins by its name alone, a precedence would tell"
                )
                at = _line(_node_at(self._node, ("match",)))
                self._reading.warnings.append(Problem(str(self._path), at, text))

    def _include(self, data: dict[Any, Any], kind: str) -> None:
        """Replace the keys that exist only in files by what they name."""
        if kind == "agent" and "prompt_file" in data:
            name = data.pop("prompt_file")
            at = _node_at(self._node, ("prompt_file",))
            if "prompt" in data:
                self._problem(at, "agent.prompt_file: there is a `prompt` as well; keep one of them")
            try:
                data["prompt"] = (self._path.parent / str(name)).read_text("utf-8")
            except (OSError, ValueError) as error:  # not UTF-8, or no file name at all
                self._problem(at, f"agent.prompt_file: cannot read {_shown(name)}: {_reason(error)}")
        if kind == "route":
            self._include_fallback(data, "fallback")
            self._include_fallback(data, "after_hours")

    def _include_fallback(self, data: dict[Any, Any], name: str) -> None:
        """The sound of a route's fallback."""
        fallback = data.get(name)
        if not isinstance(fallback, dict):
            return
        if "wav" in fallback:
            wav = fallback.pop("wav")
            try:
                fallback["message_ulaw_b64"] = _message(self._path.parent / str(wav))
            except (OSError, ValueError) as error:
                at = _node_at(self._node, (name, "wav"))
                self._problem(at, f"route.{name}.wav: cannot use {_shown(wav)}: {_reason(error)}")
                data.pop(name)  # its other fields would only complain about the missing sound

    def _explain(self, kind: str, loc: tuple[int | str, ...], error: str, message: str) -> None:
        text = "unknown field" if error == "extra_forbidden" else message.removeprefix("Value error, ")
        if error == "missing":
            text = "is required"
        node = _value_at(self._node, loc)
        if isinstance(node, yaml.ScalarNode):
            if error == "tuple_type":
                text = (
                    f"is a list: write [{node.value}]" if node.style is None else f'is a list: write ["{node.value}"]'
                )
            elif error == "string_type":
                text = f'is text: write it in quotes, "{node.value}"'
        name = ".".join([kind, *map(str, loc)])
        self._problem(_node_at(self._node, loc), f"{name}: {text}")

    def _problem(self, at: yaml.Node, text: str) -> None:
        self._bad = True
        self._reading.problems.append(Problem(str(self._path), _line(at), text))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _node_at(node: yaml.Node, loc: tuple[int | str, ...]) -> yaml.Node:
    """The node that pydantic's `loc` means: of a mapping the key, of a list the entry; else the closest above."""
    place = node
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            entry = next(((key, value) for key, value in node.value if key.value == part), None)
            if entry is None:
                return place
            place, node = entry
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            place = node = node.value[part]
        else:
            return place
    return place


def _value_at(node: yaml.Node, loc: tuple[int | str, ...]) -> yaml.Node | None:
    """The node of the value that pydantic's `loc` names, or None when it is not there."""
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
        else:
            found = None
        if found is None:
            return None
        node = found
    return node


def _duplicates(node: yaml.Node) -> Iterator[tuple[yaml.Node, str]]:
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _duplicates(child)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key, str(key.value)
                seen.add(key.value)
            yield from _duplicates(value)


def _message(path: Path) -> str:
    """A WAV as the base64 u-law that the gateway plays."""
    wav = read_wav(path.read_bytes())
    if wav.rate_hz != MESSAGE_RATE_HZ or wav.channels != 1:
        raise WavError(f"it has {wav.rate_hz} Hz and {wav.channels} channels; 8000 Hz mono is needed")
    if wav.duration_ms > MESSAGE_MOST_S * 1000:
        raise WavError(f"it lasts {wav.duration_ms / 1000:.0f} s; at most {MESSAGE_MOST_S} s are played")
    return base64.b64encode(Law.PCMU.encode(wav.pcm)).decode()


def _shown(name: object) -> str:
    text = str(name)
    return text if text.isprintable() else repr(text)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
