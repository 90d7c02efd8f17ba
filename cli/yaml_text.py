"""YAML text to nodes and values, for files from anywhere: every mistake is one sentence with its line.

What the library answers with a stack overflow, endless work or a bare ValueError is refused here: deep nesting, aliases
inside themselves, aliases that unfold to millions of nodes, numbers and dates that are none.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

DEEPEST = 50
MOST_NODES = 20_000


class YamlProblem(ValueError):
    """What is wrong with a text, and the line where."""

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


class Loader(yaml.SafeLoader):
    """YAML 1.1 without its traps: only `true` and `false` are booleans (`off`, `on`, `no` stay words), and dates stay
    text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node; the library recurses here."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise YamlProblem(f"nested more than {DEEPEST} deep", self.line + 1)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Hashable:
        """One value; numbers such as `0b_` and dates such as the 13th month are no ValueError without a line."""
        try:
            made: Hashable = super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            what = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]}: put text in quotes"
            raise ConstructorError(None, None, what, node.start_mark) from error
        return made


_DROPPED = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"}
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _first, _word in (("t", "true"), ("f", "false")):
    _resolvers = Loader.yaml_implicit_resolvers.setdefault(_first, [])
    _resolvers.append(("tag:yaml.org,2002:bool", re.compile(f"^{_word}$")))


def documents(text: str) -> Iterator[tuple[yaml.Node, Loader]]:
    """The documents as nodes, each checked for its size, with the loader that makes values of them.

    Raises:
        YamlProblem: it is not YAML, or nothing that a person wrote.
    """
    try:
        loader = Loader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlProblem(f"the character U+{ord(text[error.position]):04X} is not allowed", line) from error
    try:
        while (node := _next(loader)) is not None:
            _measure(node)
            yield node, loader
    finally:
        loader.dispose()


def construct(loader: Loader, node: yaml.Node) -> Any:
    """The values of a document.

    Raises:
        YamlProblem: a value is not what its tag or its look says.
    """
    try:
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _problem(error) from error


def _next(loader: Loader) -> yaml.Node | None:
    try:
        return loader.get_node() if loader.check_node() else None
    except yaml.MarkedYAMLError as error:
        raise _problem(error) from error


def _problem(error: yaml.MarkedYAMLError) -> YamlProblem:
    mark = error.problem_mark or error.context_mark
    return YamlProblem(str(error.problem or error.context), mark.line + 1 if mark else 1)


def _measure(root: yaml.Node) -> None:
    """Refuse a document that contains itself, or that its aliases unfold beyond measure."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise YamlProblem("an alias (*) stands inside what it names", node.start_mark.line + 1)
        if id(node) not in sizes:
            open_nodes.add(id(node))
            sizes[id(node)] = 1 + sum(size(child) for child in _children(node))
            open_nodes.discard(id(node))
            if sizes[id(node)] > MOST_NODES:
                raise YamlProblem(f"more than {MOST_NODES} values, aliases unfolded", node.start_mark.line + 1)
        return sizes[id(node)]

    size(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for entry in node.value for part in entry]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
