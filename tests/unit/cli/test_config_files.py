"""Configuration files: each mistake is named with file, line and field, all of them at once."""

import base64
from pathlib import Path

import pytest

from cli.checkout import CONFIG
from cli.config_files import Reading, check_routes, read_files, yaml_files
from libs.audio.wav import write_wav
from libs.contracts.config import AgentConfig, RouteConfig, route_for

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
        "8: route.match.0: Input should be a valid string",
        "10: kind: is one of agent, route, organisation, not 'agnt'",
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
