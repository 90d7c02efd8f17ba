"""Configuration files: each mistake is named with file, line and field, all of them at once."""

import base64
import re
from pathlib import Path

import pytest

from cli.checkout import CONFIG
from cli.config_files import Reading, check_routes, read_files, yaml_files
from libs.audio.wav import write_wav
from libs.contracts.agent import AgentConfig
from libs.contracts.config import RouteConfig, route_for

AGENT = "kind: agent\nname: bestellung\n"


def read(tmp_path: Path, text: str, name: str = "a.yaml") -> Reading:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return read_files([path])


def lines(reading: Reading) -> list[str]:
    return [f"{problem.line}: {problem.text}" for problem in sorted(reading.problems)]


def test_the_files_that_ship_are_valid_and_their_routes_find_their_agents() -> None:
    reading = read_files(yaml_files([CONFIG]))
    check_routes(reading, set())
    assert reading.problems == []
    routes = [d for d in reading.documents if isinstance(d, RouteConfig)]
    route = route_for(routes, "bestellung")
    assert route is not None
    assert route.agent == "bestellung"
    agents = {d.name: d for d in reading.documents if isinstance(d, AgentConfig)}
    assert "{{tool:product_types}}" in agents["bestellung"].prompt
    assert agents["echo"].backend_options == {"mode": "echo"}


def test_a_value_out_of_range_is_named_with_line_and_field(tmp_path: Path) -> None:
    reading = read(tmp_path, AGENT + "turn_taking:\n  mode: server_vad\n  threshold: 3\n")
    assert lines(reading) == ["5: agent.turn_taking.threshold: Input should be less than or equal to 1"]
    assert str(reading.problems[0]).startswith(f"{tmp_path / 'a.yaml'}:5: ")
    assert reading.placed == {}


def test_all_mistakes_of_all_documents_are_told_at_once(tmp_path: Path) -> None:
    text = AGENT + "colour: red\nlimits: {max_duration_s: -1}\n---\nkind: route\nname: r\nmatch: [1]\n---\nkind: agnt\n"
    assert lines(read(tmp_path, text)) == [
        "3: agent.colour: unknown field",
        "4: agent.limits.max_duration_s: Input should be greater than 0",
        "6: route.agent: is required",
        '8: route.match.0: is text: write it in quotes, "1"',
        "10: kind: is one of agent, route, organisation, tool, mcp, not 'agnt'",
    ]


def test_broken_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, "kind: agent\nname: [a\n").problems
    assert problem.line == 3
    assert problem.text.startswith("not YAML: ")


def test_a_key_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    assert lines(read(tmp_path, AGENT + "voice: marin\nvoice: cedar\n")) == ["4: voice stands here twice"]


def test_the_same_agent_in_two_files_is_a_mistake(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(AGENT, "utf-8")
    (problem,) = read_files(yaml_files([tmp_path])).problems
    assert problem.text == f"agent 'bestellung' is also defined in {tmp_path / 'a.yaml'}:1"


def test_off_and_no_are_words_and_not_booleans(tmp_path: Path) -> None:
    reading = read(tmp_path, AGENT + "recording: off\nlanguages: [no]\nturn_taking: {interruptible: false}\n")
    (document,) = reading.documents
    assert isinstance(document, AgentConfig)
    assert (document.recording, document.languages) == ("off", ("no",))
    assert document.turn_taking.interruptible is False


def test_a_route_must_name_an_agent_that_exists_in_the_files_or_on_the_bus(tmp_path: Path) -> None:
    text = AGENT + "---\nkind: route\nname: r\nmatch: ['1']\nagent: nobody\n"
    reading = read(tmp_path, text)
    check_routes(reading, {"agent.default.nobody"})
    assert reading.problems == []
    check_routes(reading, set())
    assert lines(reading) == [
        "7: route.agent: there is no agent named 'nobody' in organisation 'default'; the files hold bestellung"
    ]


def test_a_prompt_may_stand_in_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Sei höflich.", "utf-8")
    (document,) = read(tmp_path, AGENT + "prompt_file: p.txt\n").documents
    assert isinstance(document, AgentConfig)
    assert document.prompt == "Sei höflich."
    assert lines(read(tmp_path, AGENT + "prompt_file: q.txt\n")) == [
        "3: agent.prompt_file: cannot read q.txt: No such file or directory"
    ]


@pytest.mark.parametrize(("rate_hz", "channels", "valid"), [(8000, 1, True), (16000, 1, False), (8000, 2, False)])
def test_a_fallback_message_is_8_khz_mono(tmp_path: Path, rate_hz: int, channels: int, valid: bool) -> None:
    (tmp_path / "m.wav").write_bytes(write_wav(bytes(320), rate_hz, channels))
    route = "kind: route\nname: r\nmatch: ['1']\nagent: bestellung\nfallback:\n  kind: message\n  wav: m.wav\n"
    reading = read(tmp_path, route)
    if valid:
        (document,) = reading.documents
        assert isinstance(document, RouteConfig)
        assert len(base64.b64decode(document.fallback.message_ulaw_b64 or "")) == 160
    else:
        assert lines(reading) == [
            f"7: route.fallback.wav: cannot use m.wav: it has {rate_hz} Hz and {channels} channels; "
            "8000 Hz mono is needed"
        ]


def test_a_message_without_its_wav_is_a_mistake(tmp_path: Path) -> None:
    text = "kind: route\nname: r\nmatch: ['1']\nagent: a\nfallback:\n  kind: message\n"
    assert lines(read(tmp_path, text)) == ["5: route.fallback: a fallback of kind 'message' needs a WAV file"]


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AGENT + "prompt: \x07\n", "3: not YAML: the character U+0007 is not allowed"),
        (AGENT + "version: 0b_\n", "3: not YAML: '0b_' is no int: put text in quotes"),
        (AGENT + f"version: {'9' * 5000}\n", f"3: not YAML: '{'9' * 40}' is no int: put text in quotes"),
        (AGENT + "prompt: !!timestamp 2026-13-45\n", "3: not YAML: '2026-13-45' is no timestamp: put text in quotes"),
        (AGENT + 'prompt_file: "a\\0b"\n', "3: agent.prompt_file: cannot read 'a\\x00b': embedded null byte"),
        ("&a [*a]\n", "1: not YAML: an alias (*) stands inside what it names"),
        (AGENT + "x: &a {y: *a}\n", "3: not YAML: an alias (*) stands inside what it names"),
        ("\n" + "[" * 3000, "2: not YAML: nested more than 50 deep"),
        (LAUGHS, "5: not YAML: more than 20000 values, aliases unfolded"),
        (
            AGENT + "backend_options: {x: !!binary /w==}\n",
            "1: agent 'bestellung' holds a value that JSON cannot (binary, say)",
        ),
        (
            AGENT + f"prompt: {'x' * 1_048_576}\n",
            "1: agent 'bestellung' is larger than the bus takes (… of 1048576 bytes)",
        ),
        (AGENT + "? [a]\n: b\n", "3: not YAML: found unhashable key"),
    ],
)
def test_files_that_no_person_wrote_are_one_sentence_as_well(tmp_path: Path, text: str, expected: str) -> None:
    reading = read(tmp_path, text)
    assert [re.sub(r"\(\d+ of", "(… of", line) for line in lines(reading)] == [expected]
    assert reading.documents == []


def test_a_date_is_text(tmp_path: Path) -> None:
    (document,) = read(tmp_path, AGENT + "prompt: 2026-13-45\ngreeting: 2026-01-02\n").documents
    assert isinstance(document, AgentConfig)
    assert (document.prompt, document.greeting) == ("2026-13-45", "2026-01-02")


ROUTE = "kind: route\nname: r\nagent: bestellung\n"


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ('"4930"', '4: route.match: is a list: write ["4930"]'),
        ("echo", "4: route.match: is a list: write [echo]"),
        ("[4930]", '4: route.match.0: is text: write it in quotes, "4930"'),
    ],
)
def test_a_match_that_is_no_list_of_text_is_told_with_a_remedy(tmp_path: Path, match: str, expected: str) -> None:
    assert lines(read(tmp_path, ROUTE + f"match: {match}\n")) == [expected]


def test_an_empty_match_is_a_warning(tmp_path: Path) -> None:
    reading = read(tmp_path, ROUTE + "match: []\n")
    assert [str(w) for w in reading.warnings] == [
        f"{tmp_path / 'a.yaml'}:4: route.match: is empty, so that no call ever takes this route"
    ]
    assert len(reading.documents) == 1


def test_a_key_that_stands_twice_is_found_at_every_depth(tmp_path: Path) -> None:
    nested = "limits:\n  max_duration_s: 1\n  max_duration_s: 2\nbackend_options: {x: [{y: 1, y: 2}]}\n"
    reading = read(tmp_path, AGENT + nested)
    assert lines(reading) == ["5: max_duration_s stands here twice", "6: y stands here twice"]
    assert reading.documents == []


def test_a_prompt_beside_a_prompt_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a", "utf-8")
    reading = read(tmp_path, AGENT + "prompt: b\nprompt_file: p.txt\n")
    assert lines(reading) == ["4: agent.prompt_file: there is a `prompt` as well; keep one of them"]
    assert reading.documents == []


@pytest.mark.parametrize(("seconds", "valid"), [(60, True), (61, False)])
def test_a_fallback_message_lasts_a_minute_at_most(tmp_path: Path, seconds: int, valid: bool) -> None:
    (tmp_path / "m.wav").write_bytes(write_wav(bytes(16_000 * seconds), 8000))
    reading = read(tmp_path, ROUTE + "match: [x]\nfallback: {kind: message, wav: m.wav}\n")
    expected = ["5: route.fallback.wav: cannot use m.wav: it lasts 61 s; at most 60 s are played"]
    assert lines(reading) == ([] if valid else expected)
    assert len(reading.documents) == valid


def test_documents_are_published_before_those_that_name_them(tmp_path: Path) -> None:
    text = ROUTE + "match: [x]\n---\n" + AGENT + "---\nkind: organisation\nname: default\n"
    assert [d.kind for d in read(tmp_path, text).documents] == ["organisation", "agent", "route"]


def test_directories_hold_yaml_and_yml_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.txt", "d.yaml~"):
        (tmp_path / name).write_text("", "utf-8")
    assert [path.name for path in yaml_files([tmp_path])] == ["a.yaml", "b.yml"]


@pytest.mark.parametrize(
    ("lines_of_it", "expected"),
    [
        ('match: ["~(30"]', "4: route.match: '~(30' is no regular expression: missing ), unterminated subpattern at"),
        ('match: ["~(1+)+2"]', "4: route.match: '~(1+)+2' could take too long to match: at most two open ends"),
        ('match: ["+49*3"]', "4: route.match: '+49*3' has a '*' before its end"),
        ("match: [x]\nentrance: fax", "5: route.entrance: Input should be 'any', 'sip', 'twilio' or 'browser'"),
        (
            "match: [x]\nentrance: browser\ntrunk: a",
            "1: route: trunk 'a' is one of the entrance sip; this route serves",
        ),
        ("match: [x]\nanswer: perhaps", "5: route.answer: Input should be 'auto' or 'manual'"),
        ("match: [x]\nanswer_delay_ms: -1", "5: route.answer_delay_ms: Input should be greater than or equal to 0"),
        ("match: [x]\nperson_timeout_s: 0", "5: route.person_timeout_s: Input should be greater than 0"),
        ("match: [x]\nafter_hours: {kind: reject}", "1: route: after_hours without hours: this route is always open"),
        (
            "match: [x]\nhours:\n  timezone: Berlin\n  weekly: []",
            "6: route.hours.timezone: there is no time zone 'Berl",
        ),
        (
            "match: [x]\nhours:\n  timezone: Europe/Berlin\n  weekly: [mo 08:00-12:00]",
            "7: route.hours.weekly: 'mo 08:00-12:00' is no weekly span; they are written like 'mon-fri 08:00-17:30'",
        ),
        (
            "match: [x]\nhours:\n  timezone: Europe/Berlin\n  weekly: []\n  exceptions: {2026-13-01: closed}",
            "8: route.hours.exceptions: '2026-13-01' is no date; they are written like 2026-12-24",
        ),
        ("match: [x]\nfallback: {kind: transfer}", "5: route.fallback: a fallback of kind 'transfer' needs a number"),
        (
            "match: [x]\nfallback:\n  kind: voicemail\n  wav: m.wav",
            "7: route.fallback.wav: cannot use m.wav: No such file or directory",
        ),
        (
            "match: [x]\nhours: {timezone: UTC, weekly: []}\nafter_hours:\n  kind: message\n  wav: m.wav",
            "8: route.after_hours.wav: cannot use m.wav: No such file or directory",
        ),
        (
            'match: [x]\nfallback: {kind: transfer, number: "030123"}',
            '5: route.fallback.number: is a number in E.164, like "+493012345678"',
        ),
    ],
)
def test_mistakes_in_routes_are_told_with_their_place(tmp_path: Path, lines_of_it: str, expected: str) -> None:
    (line,) = lines(read(tmp_path, ROUTE + lines_of_it + "\n"))
    assert line.startswith(expected)


@pytest.mark.parametrize("field", ["max_calls: 0", "attempts_per_minute: 3001", "max_calls: many"])
def test_limits_out_of_range_are_mistakes(tmp_path: Path, field: str) -> None:
    (line,) = lines(read(tmp_path, f"kind: organisation\nname: acme\n{field}\n"))
    assert line.startswith(f"3: organisation.{field.partition(':')[0]}: Input should be")


def test_two_routes_that_only_their_names_tell_apart_are_a_warning(tmp_path: Path) -> None:
    text = ROUTE + 'match: ["030", x]\n---\n' + ROUTE.replace("name: r", "name: a") + "match: [x]\n"
    reading = read(tmp_path, text)
    path = tmp_path / "a.yaml"
    assert [str(warning) for warning in reading.warnings] == [
        f"{path}:9: route.match: 'x' is also served by route 'r' ({path}:1); 'a' wins by its name alone, "
        "a precedence would tell"
    ]
    assert read(tmp_path, text + "precedence: 1\n").warnings == []
    assert read(tmp_path, text + "trunk: north\n").warnings == []


def test_what_the_runbook_and_the_sample_show_can_be_published(tmp_path: Path) -> None:
    (tmp_path / "m.wav").write_bytes(write_wav(bytes(320), 8000))
    text = (
        ROUTE
        + r"""
match: ["+493012345678", "+4930*", '~\+49(30|40)[0-9]{4,8}']
entrance: sip
trunk: north
hours:
  timezone: Europe/Berlin
  weekly: ["mon-fri 08:00-12:00, 13:00-17:30", sat 09:00-13:00, fri 22:00-02:00]
  exceptions: {2026-12-24: closed, 2026-12-31: "09:00-12:00"}
after_hours: {kind: message, wav: m.wav}
answer: manual
answer_delay_ms: 500
person_timeout_s: 30
fallback: {kind: transfer, number: "+493087654321"}
"""
    )
    reading = read(tmp_path, text)
    assert lines(reading) == []
    (route,) = reading.documents
    assert isinstance(route, RouteConfig)
    assert route.hours is not None
    assert route.after_hours is not None
    assert route.after_hours.kind == "message"
    assert RouteConfig.model_validate_json(route.to_json()) == route
