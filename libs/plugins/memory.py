"""Answers already given, by idempotency key: a repeated request changes nothing and hears the same. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from libs.contracts.tool import ToolReply

Key = tuple[str, str, str]  # organisation, call, tool_call_id


@dataclass(frozen=True, slots=True)
class Given:
    """An answer, and to which arguments (a fingerprint)."""

    arguments: str
    reply: ToolReply


class Answers:
    """The last `most` answers. What has fallen out is carried out again: a call's repetitions come within seconds."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._given: OrderedDict[Key, Given] = OrderedDict()

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._given)

    def find(self, key: Key) -> Given | None:
        """What was answered, if it is still remembered."""
        return self._given.get(key)

    def put(self, key: Key, given: Given) -> None:
        """Remember an answer; the oldest goes."""
        self._given[key] = given
        while len(self._given) > self._most:
            self._given.popitem(last=False)
