"""Subjects: what a builder makes its parser reads; nothing with a bad token is ever built."""

import re

import pytest
from hypothesis import given, strategies as st

from libs.contracts import subjects
from libs.contracts.ids import check_token, is_token, new_call_id, new_process_id

tokens = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
kinds = st.lists(tokens, min_size=1, max_size=3).map(".".join)
bad_tokens = st.text(max_size=12).filter(lambda text: not is_token(text) and text != "*")
directions = st.sampled_from(subjects.DIRECTIONS)

BUILDERS = {  # pattern of the table -> its builder, called with one token per <part>
    "v1.<org>.aud.<gw>.<wk>.<call>.up": lambda *parts: subjects.audio(*parts, "up"),
    "v1.<org>.aud.<gw>.<wk>.<call>.dn": lambda *parts: subjects.audio(*parts, "dn"),
    "v1.<org>.aud.<gw>.<wk>.<call>.out": lambda *parts: subjects.audio(*parts, "out"),
    "v1.<org>.ctl.<call>.leg": lambda *parts: subjects.control(*parts, "leg"),
    "v1.<org>.ctl.<call>.agent": lambda *parts: subjects.control(*parts, "agent"),
    "v1.<org>.evt.<call>.<kind>": subjects.event,
    "v1.<org>.live.<call>.<kind>": subjects.live,
    "v1.<org>.tool.<name>": subjects.tool,
    "v1.<org>.originate.<kind>": subjects.originate,
    "v1.hb.wk.<wk>": subjects.worker_heartbeat,
    "v1.hb.gw.<gw>": subjects.gateway_heartbeat,
    "v1.wk.<wk>.offer": subjects.offer,
    "v1.wk.<wk>.release": subjects.release,
    "v1.sys.gone": lambda: subjects.GONE,
    "v1.rpc.<service>.<verb>": subjects.rpc,
}
ROWS = [row.pattern for row in subjects.SUBJECTS]


def parts_of(pattern):
    return re.findall(r"<\w+>", pattern)


def nats_match(pattern, subject):
    """The server's rule: `*` one token, `>` one or more."""
    want, have = pattern.split("."), subject.split(".")
    if want[-1] == ">":
        return len(have) >= len(want) and nats_match(".".join(want[:-1]) or ".", ".".join(have[: len(want) - 1]))
    return len(want) == len(have) and all(w in ("*", h) for w, h in zip(want, have, strict=True))


def test_every_row_of_the_table_has_a_builder():
    assert sorted(ROWS) == sorted(BUILDERS)


@pytest.mark.parametrize("pattern", ROWS)
@given(data=st.data())
def test_a_builder_fills_its_row_of_the_table(pattern, data):
    parts = [data.draw(tokens) for _ in parts_of(pattern)]
    expected = pattern
    for part in parts:
        expected = re.sub(r"<\w+>", part, expected, count=1)
    assert BUILDERS[pattern](*parts) == expected


@pytest.mark.parametrize("pattern", [row for row in ROWS if "<" in row])
@given(data=st.data())
def test_a_builder_refuses_a_bad_token_wherever_it_stands(pattern, data):
    count = len(parts_of(pattern))
    parts = [data.draw(tokens) for _ in range(count)]
    parts[data.draw(st.integers(0, count - 1))] = data.draw(bad_tokens)
    if pattern.endswith("<kind>") and is_token(parts[-1].replace(".", "x")):
        parts[-1] = ""  # an event's kind may be dotted
    with pytest.raises(ValueError, match=r"not a subject token"):
        BUILDERS[pattern](*parts)


@given(tokens, tokens, tokens, tokens, directions)
def test_an_audio_subject_round_trips_and_both_ends_subscriptions_match_it(org, gw, wk, call, direction):
    subject = subjects.audio(org, gw, wk, call, direction)
    parsed = subjects.parse_audio(subject)
    assert parsed == subjects.AudioSubject(org, gw, wk, call, direction)
    assert str(parsed) == subject
    assert nats_match(subjects.worker_uplink(wk), subject) == (direction == "up")
    assert nats_match(subjects.gateway_downlink(gw), subject) == (direction == "dn")
    assert not nats_match(subjects.EVENTS_FILTER, subject)


@given(tokens, tokens, kinds)
def test_an_event_subject_round_trips_and_lies_in_the_stream(org, call, kind):
    subject = subjects.event(org, call, kind)
    assert subjects.parse_event(subject) == subjects.EventSubject(org, call, kind)
    assert nats_match(subjects.EVENTS_FILTER, subject)
    assert nats_match(subjects.events_of(call), subject)
    assert nats_match(subjects.events_of(call, org), subject)
    assert nats_match(subjects.events_of_kind(kind), subject)


@given(tokens)
def test_heartbeat_subscriptions_match_the_heartbeats_of_their_kind_alone(process):
    assert nats_match(subjects.WORKER_HEARTBEATS, subjects.worker_heartbeat(process))
    assert nats_match(subjects.GATEWAY_HEARTBEATS, subjects.gateway_heartbeat(process))
    assert not nats_match(subjects.WORKER_HEARTBEATS, subjects.gateway_heartbeat(process))


@given(st.text(max_size=60) | st.lists(tokens | st.sampled_from(["v1", "aud", "evt", "up", "*", ">"])).map(".".join))
def test_parsers_refuse_what_is_no_such_subject_with_a_sentence_that_names_it(subject):
    for parse, marker, least in (subjects.parse_audio, "aud", 7), (subjects.parse_event, "evt", 5):
        parts = subject.split(".")
        if parts[0] == "v1" and len(parts) >= least and parts[2] == marker and all(map(is_token, parts)):
            continue
        with pytest.raises(subjects.SubjectError, match=re.escape(repr(subject))):
            parse(subject)


@pytest.mark.parametrize(
    "subject",
    ["v2.o.aud.g.w.c.up", "v1.o.aud.g.w.c.side", "v1.o.aud.g.w.c", "v1.o.aud.g.*.c.up", "v1.o.aud.g.w.c.up.x", ""],
)
def test_near_misses_are_not_audio_subjects(subject):
    with pytest.raises(subjects.SubjectError):
        subjects.parse_audio(subject)


@pytest.mark.parametrize("text", ["", "a.b", "a b", "*", ">", "ü", "a\n", "a\x00"])
def test_what_would_change_a_subjects_shape_is_no_token(text):
    with pytest.raises(ValueError, match=r"^worker .* is not a subject token"):
        check_token(text, "worker")


def test_ids_are_tokens():
    ids = [new_call_id(), new_process_id("wk"), new_process_id("gw")]
    assert all(map(is_token, ids))
    assert [len(ids[0]), ids[1][:3], ids[2][:3]] == [26, "wk-", "gw-"]
    assert len({new_process_id("wk") for _ in range(1000)}) == 1000


def test_call_ids_sort_by_their_millisecond():
    ids = [new_call_id() for _ in range(20_000)]  # well over a millisecond
    milliseconds = [each[:10] for each in ids]
    assert milliseconds == sorted(milliseconds)
    assert milliseconds[0] < milliseconds[-1]


def test_a_role_that_is_no_token_makes_no_process_id():
    with pytest.raises(ValueError, match="role"):
        new_process_id("w.k")
