"""Scenario files: what the callers of a rehearsed conversation mean, and what the model does about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChainableUndefined, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.rehearsal.faults import Fault

_MARKER = re.compile(r"\[scenario:\s*([A-Za-z0-9_-]+)\s*\]")
# Answers look into results that may be missing ("added.basket.lines"); arguments must not be made up.
_LENIENT = ImmutableSandboxedEnvironment(undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True)
_STRICT = ImmutableSandboxedEnvironment(undefined=StrictUndefined)


class ScenarioError(ValueError):
    """A scenario file that cannot be used; the message names the file and the field."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ToolStep(_Part):
    """One tool call. ``alias`` names its result for the templates, the tool's own name if absent.

    Strings in ``arguments`` are templates over earlier results; numbers stay numbers.
    """

    tool: str
    alias: str | None = Field(default=None, alias="as")
    arguments: dict[str, Any] = {}

    @property
    def result_name(self) -> str:
        return self.alias or self.tool


class Step(_Part):
    """Calls made in one response: several are parallel tool calls. ``when`` is a Jinja expression."""

    calls: list[ToolStep] = Field(min_length=1)
    when: str | None = None
    say: str | None = Field(default=None, description="said before the calls, in the same response")


class Turn(_Part):
    """The caller's n-th turn: its transcript, the tools to call, the answer (a list: several items)."""

    caller: str
    steps: list[Step] = []
    answer: str | list[str]

    @field_validator("answer")
    @classmethod
    def _compiles(cls, answer: str | list[str]) -> str | list[str]:
        for template in [answer] if isinstance(answer, str) else answer:
            try:
                _LENIENT.from_string(template)
            except TemplateError as error:
                raise ValueError(f"not a template: {error}") from error
        return answer

    @property
    def answers(self) -> list[str]:
        return [self.answer] if isinstance(self.answer, str) else self.answer


class InstructionRule(_Part):
    """What to say when the ``instructions`` of a ``response.create`` match."""

    match: str
    say: str

    @field_validator("match")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern


class Scenario(_Part):
    """One rehearsed conversation."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    language: str = Field(default="de", pattern=r"^[a-z]{2}$", description="of the rendered clips")
    greeting: str
    turns: list[Turn] = []
    repeat: bool = Field(default=False, description="after the last turn begin with the first again")
    caller_default: str = "(unverständlich)"
    default_answers: list[str] = Field(
        default=["Das habe ich leider nicht verstanden. Können Sie das bitte wiederholen?"], min_length=1
    )
    on_instructions: list[InstructionRule] = []
    wait: str = "Einen Moment bitte."
    resumed: str = "Entschuldigung, die Verbindung war kurz weg."
    idle: str = "Sind Sie noch da?"
    goodbye: str = "Die vereinbarte Gesprächszeit ist um. Vielen Dank für Ihren Anruf. Auf Wiederhören."
    ask_to_repeat: str = "Entschuldigung, die Verbindung war kurz weg. Können Sie das bitte wiederholen?"
    follow_up: str = "Kann ich noch etwas für Sie tun?"
    clips: list[str] = Field(default=[], description="sentences to render that no static answer contains")
    faults: list[Fault] = []

    def turn(self, number: int) -> Turn | None:
        """The caller's turn ``number`` (from 1), or None for an extra one."""
        if self.repeat and self.turns and number >= 1:
            return self.turns[(number - 1) % len(self.turns)]
        return self.turns[number - 1] if 1 <= number <= len(self.turns) else None

    def transcript(self, number: int) -> str:
        turn = self.turn(number)
        return turn.caller if turn else self.caller_default

    def default_answer(self, number: int) -> str:
        return self.default_answers[(number - 1) % len(self.default_answers)]

    def static_texts(self) -> Iterator[str]:
        """Everything that can be spoken and holds no template, with the sentences of ``clips``."""
        texts = [self.greeting, self.wait, self.resumed, self.idle, self.follow_up, self.goodbye]
        texts += [self.ask_to_repeat] + self.default_answers + self.clips + [rule.say for rule in self.on_instructions]
        for turn in self.turns:
            texts += turn.answers
            texts += [step.say for step in turn.steps if step.say]
        yield from (text for text in texts if "{%" not in text and "{{" not in text)


class ScenarioSet:
    """The scenarios of a process, chosen per session."""

    def __init__(self, scenarios: list[Scenario], default: str) -> None:
        self._by_name = {scenario.name: scenario for scenario in scenarios}
        if default not in self._by_name:
            raise ScenarioError(f"no scenario is named {default!r}; there are {', '.join(self._by_name)}")
        self._default = default

    def __iter__(self) -> Iterator[Scenario]:
        return iter(self._by_name.values())

    def find(self, name: str) -> Scenario | None:
        return self._by_name.get(name)

    def choose(self, *, instructions: str, query: str | None = None) -> Scenario:
        """By a line ``[scenario: name]`` in the instructions, else by the URL, else the default."""
        marker = _MARKER.search(instructions)
        for name in (marker and marker.group(1), query):
            if name and name in self._by_name:
                return self._by_name[name]
        return self._by_name[self._default]


def render_text(template: str, results: dict[str, Any]) -> str:
    """Fill in an answer; missing results read as empty. Raises ScenarioError."""
    try:
        return " ".join(_LENIENT.from_string(template).render(results).split())
    except TemplateError as error:
        raise ScenarioError(f"answer {template!r}: {error}") from error


def holds(condition: str, results: dict[str, Any]) -> bool:
    """Whether the ``when`` of a step is true. Raises ScenarioError."""
    try:
        return bool(_LENIENT.compile_expression(condition)(**results))
    except TemplateError as error:
        raise ScenarioError(f"when {condition!r}: {error}") from error


def render_arguments(arguments: Any, results: dict[str, Any]) -> Any:
    """Fill in a call's arguments. Raises ScenarioError when a result they need is missing."""
    if isinstance(arguments, str):
        try:
            return _STRICT.from_string(arguments).render(results)
        except TemplateError as error:
            raise ScenarioError(f"argument {arguments!r}: {error}") from error
    if isinstance(arguments, dict):
        return {name: render_arguments(value, results) for name, value in arguments.items()}
    if isinstance(arguments, list):
        return [render_arguments(value, results) for value in arguments]
    return arguments


def load_scenarios(path: Path) -> list[Scenario]:
    """Read a YAML file, or every ``*.yaml`` of a folder.

    Raises ScenarioError naming the file and the field.
    """
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    return [_load(file) for file in files]


def _load(file: Path) -> Scenario:
    try:
        return Scenario.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except OSError as error:
        raise ScenarioError(f"{file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ScenarioError(f"{file}: not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "(file)"
        raise ScenarioError(f"{file}: {field}: {first['msg']}") from error
