import re
from pathlib import Path

import pytest

from libs.contracts import document, examples, subjects
from libs.contracts.frame import unpack
from libs.contracts.wire import agent_command_decoder, event_decoder, leg_command_decoder

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "bus.md"
CONF = document.NATS_CONF.read_text("utf-8")


def test_the_committed_page_is_what_the_contracts_generate():
    if not PAGE.exists() or PAGE.read_text("utf-8") != document.bus_markdown(CONF):
        pytest.fail(f"docs/bus.md is out of date; regenerate it: {document.COMMAND}")


def test_every_event_has_a_publisher_and_no_other_class_has():
    assert set(document.event_classes()) == set(document.PUBLISHERS)


def test_every_subject_has_parties_and_an_example_and_no_other_has():
    patterns = {row.pattern for row in subjects.SUBJECTS}
    assert set(document.PARTIES) == patterns
    shown = {
        *(subject for subject, _, _ in examples.exchanges()),
        *(subjects.event(event.org, event.call, "x") for event in examples.events()),
        *(subjects.audio("o", "g", "w", "c", way) for way in subjects.DIRECTIONS),
        subjects.GONE,
    }
    forms = {pattern: re.sub(r"<\w+>", "*", pattern) for pattern in patterns}
    assert [pattern for pattern, form in forms.items() if not any(document.covers(form, one) for one in shown)] == []


def test_there_is_an_event_of_each_kind_that_readers_understand():
    decoder = event_decoder()
    made = examples.events()
    assert {type(event) for event in made} == set(document.event_classes())
    assert [decoder.decode(event.to_json()) for event in made] == list(made)


def test_messages_are_what_their_readers_expect():
    for subject, message, reply in examples.exchanges():
        assert type(message).model_validate_json(message.to_json()) == message
        assert reply is None or type(reply).model_validate_json(reply.to_json()) == reply
        if subject.endswith(".leg"):
            assert leg_command_decoder().decode(message.to_json()) == message
        if subject.endswith(".agent"):
            assert agent_command_decoder().decode(message.to_json()) == message
    frame, data = examples.frame()
    assert unpack(data) == frame


def test_queries_that_services_answer_are_all_listed():
    """By the sources: what is subscribed under `v1.rpc`."""
    listed = {service for service, _ in document.RPC}
    found = set()
    for path in (ROOT / "services").rglob("*.py"):
        text = path.read_text("utf-8")
        for service in re.findall(r'subjects\.rpc\((SERVICE|"\w+")', text):
            name = re.search(r'^SERVICE = "(\w+)"', text, re.MULTILINE) if service == "SERVICE" else None
            found.add(name[1] if name else service.strip('"') if service != "SERVICE" else path.parent.name)
    assert found == listed


def test_permissions_are_read_from_the_configuration():
    allowed = document.permissions(CONF)
    assert {"gateway", "worker", "tools", "store", "recorder", "local"} <= set(allowed)
    assert allowed["local"] == ([], [])
    assert "v1.*.evt.>" in allowed["worker"][0]


@pytest.mark.parametrize(
    ("pattern", "subject", "heard"),
    [
        ("v1.*.evt.>", "v1.a.evt.C.call.ended", True),
        ("v1.*.evt.>", "v1.a.evt", False),
        ("v1.*.evt.*.call.ended", "v1.a.evt.C.call.ended", True),
        ("v1.*.evt.*.call.ended", "v1.a.evt.C.call.held", False),
        ("v1.hb.*.*", "v1.hb.gw", False),
    ],
)
def test_patterns_cover_as_nats_does(pattern, subject, heard):
    assert document.covers(pattern, subject) is heard
