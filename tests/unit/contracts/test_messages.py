"""Every JSON message round-trips; unknown fields are ignored, unknown kinds skipped and counted."""

import json
import math
from datetime import UTC
from functools import cache
from types import SimpleNamespace
from typing import Union, get_args

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from libs.contracts import (
    agent,
    commands,
    config,
    events,
    external_tools,
    heartbeat,
    live,
    media,
    offer,
    originate,
    recording,
    rpc,
    spending,
    tool,
    transfers,
    wire,
)
from libs.contracts.model import Message
from libs.contracts.termination import RESULT_OF, Outcome, Reason, Result, Termination

words = st.text(st.characters(codec="utf-8"), max_size=12)
tokens = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
moments = st.datetimes(timezones=st.just(UTC))
terminations = st.builds(Termination.of, st.sampled_from(Reason), words)
durations = st.floats(0, 1e9, allow_nan=False)

fallbacks = (
    st.builds(config.Fallback, status=st.integers(400, 699))
    | st.builds(config.Fallback, kind=st.sampled_from(["message", "voicemail"]), message_ulaw_b64=st.just("f39/"))
    | st.builds(config.Fallback, kind=st.just("transfer"), number=st.just("+493012345678"))
)
BY_NAME = {  # fields with rules that their type does not tell
    "at": moments,
    "until": moments,
    "answered_at": moments,
    "by": tokens,
    "details": st.dictionaries(words, json_values, max_size=2),
    "request_id": tokens,
    "started_at": st.none() | moments,
    "deadline_at": moments,
    "termination": terminations,
    "output": json_values,
    "data": json_values,
    "arguments": st.dictionaries(words, json_values, max_size=2),
    "parameters": st.dictionaries(words, json_values, max_size=2),
    "backend_options": st.dictionaries(words, json_values, max_size=2),
    "org": tokens,
    "name": tokens,
    "digits": st.from_regex(r"[0-9A-D*#]{1,32}", fullmatch=True),
    "country": st.from_regex(r"[A-Z]{2}", fullmatch=True),
    "load": durations,
    "seconds": st.none() | durations,
    "cost_usd": st.none() | durations,
    "fallback": fallbacks,
    "match": st.lists(st.from_regex(r"\+[0-9]{1,15}\*?|[a-z]{1,12}|~\[0-9\]\+", fullmatch=True), max_size=2).map(tuple),
    "trunk": st.none() | tokens,
    "entrance": st.sampled_from(["any", "sip"]),
    "hours": st.just(
        config.OpeningHours(
            timezone="Europe/Berlin", weekly=("mon-fri 08:00-17:30",), exceptions={"2026-12-24": "closed"}
        )
    ),
    "after_hours": st.none() | fallbacks,
    "label": tokens,
    "pointer": st.sampled_from(["", "/items/0"]),
    "url": st.just("https://mcp.example.com/"),
    "mcp": st.just(()),  # with backend realtime alone
    "turn_taking": st.builds(agent.TurnTaking, silence_ms=st.none() | st.integers(100, 10_000)),
    "answering_machine": st.builds(agent.AnsweringMachine, then=st.sampled_from(["ignore", "hang_up"]))
    | st.builds(agent.AnsweringMachine, then=st.just("leave_message"), message=st.just("Bitte rufen Sie zurück.")),
}


def bounded(field, annotation):
    """A strategy for one field: by its name, by its limits, else by its type."""
    limits = {}
    for rule in field.metadata:
        for mine, theirs in ("ge", "min_value"), ("le", "max_value"), ("gt", "min_value"):
            if getattr(rule, mine, None) is not None:
                limits[theirs] = getattr(rule, mine)
        for length in "min_length", "max_length":
            if getattr(rule, length, None) is not None:
                limits[length] = getattr(rule, length)
    if annotation is float:
        exclusive = (
            {"exclude_min": True} if any(getattr(rule, "gt", None) is not None for rule in field.metadata) else {}
        )
        return st.floats(
            **limits, allow_nan=False, allow_infinity=False, **(exclusive if "min_value" in limits else {})
        )
    if annotation is int:
        return st.integers(**({"min_value": -(2**53), "max_value": 2**53} | limits))
    if annotation is str:
        return st.text(
            st.characters(codec="utf-8"),
            **({"max_size": 12} | {k.replace("length", "size"): v for k, v in limits.items()}),
        )
    return from_type(annotation)


def from_type(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return models(annotation)
    if annotation is str:
        return words
    if annotation is float:
        return durations
    if annotation is int:
        return st.integers(-(2**53), 2**53)
    if hasattr(annotation, "__metadata__"):
        metadata = [rule for each in annotation.__metadata__ for rule in getattr(each, "metadata", [each])]
        return bounded(SimpleNamespace(metadata=metadata), annotation.__origin__)
    arguments = get_args(annotation)
    origin = getattr(annotation, "__origin__", None)
    if origin is tuple:
        return st.lists(from_type(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(from_type(arguments[0]), from_type(arguments[1]), max_size=2)
    if origin in (None, Union) and arguments:  # X | None
        return st.one_of(*map(from_type, arguments))
    return st.from_type(annotation)


@cache
def models(cls):
    if cls is Termination:
        return terminations
    rules = {name: rule for name, rule in BY_NAME.items() if (cls, name) != (events.CallHeld, "by")}
    rules |= {"agent": tokens} if cls is config.RouteConfig else {}
    rules |= {"started_at": moments} if cls is events.RecordingStored else {}
    if cls is not config.RouteConfig:
        rules = {name: rule for name, rule in rules.items() if name not in ("match", "trunk", "entrance", "hours")}
    if cls is external_tools.HttpTool:  # its placeholders must be parameters
        rules |= {
            "parameters": st.just({"type": "object", "properties": {"x": {"type": "string"}}}),
            "headers": st.just({"Authorization": "Bearer {secret:shop}"}),
            "query": st.just({"x": "{x}", "caller": "{call.caller}"}),
            "body": st.none() | st.just({"x": ["{x}"]}),
        }
    fields = {
        name: rules[name] if name in rules else bounded(field, field.annotation)
        for name, field in cls.model_fields.items()
    }
    return st.builds(cls, **fields)


def members(union):
    return get_args(get_args(union)[0])


EVENTS, LEG, AGENT, CONFIG = map(
    members, (events.Event, commands.LegCommand, commands.AgentCommand, config.ConfigDocument)
)
PLAIN = (
    commands.CommandReply, heartbeat.WorkerHeartbeat, heartbeat.GatewayHeartbeat, heartbeat.CallEntry, offer.CallState,
    offer.Resume, offer.Offer, offer.OfferReply, offer.Release, rpc.RpcRequest, rpc.RpcReply, tool.ToolRequest,
    tool.ToolReply, tool.ToolDescription, originate.Originate, originate.OriginateReply, recording.RecordRequest,
    recording.RecordReply, spending.DaySpending, live.PartialTranscript,
)  # fmt: skip
DECODERS = (
    (EVENTS, wire.event_decoder),
    (LEG, wire.leg_command_decoder),
    (AGENT, wire.agent_command_decoder),
    (CONFIG, wire.config_decoder),
)
DISCRIMINATED = [(cls, decoder) for classes, decoder in DECODERS for cls in classes]
few = settings(
    max_examples=10,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
    deadline=None,
)


def subclasses(cls):
    return {cls, *(each for child in cls.__subclasses__() for each in subclasses(child))}


def test_no_message_was_forgotten_here():
    nested = {agent.TurnTaking, agent.Transcription, agent.Limits, agent.Budget, agent.Speech, agent.Idle}
    nested |= {agent.Fillers, agent.AnsweringMachine, agent.McpServer, config.Fallback, config.OpeningHours}
    nested |= {transfers.Transfers, transfers.TransferTarget, external_tools.ToolResponse}
    nested |= {
        media.MediaStatistics,
        events.OrderLine,
        Message,
        events.CallEvent,
        commands.Command,
        originate.AgentChanges,
    }
    ours = {cls for cls in subclasses(Message) if cls.__module__.startswith("libs.contracts.")}
    assert ours == nested | {*EVENTS, *LEG, *AGENT, *CONFIG, *PLAIN}


@pytest.mark.parametrize("cls", [*EVENTS, *LEG, *AGENT, *CONFIG, *PLAIN], ids=lambda cls: cls.__name__)
@few
@given(data=st.data())
def test_a_message_round_trips_and_a_newer_senders_fields_are_ignored(cls, data):
    message = data.draw(models(cls))
    assert cls.model_validate_json(message.to_json()) == message
    newer = json.loads(message.to_json()) | {"from_the_future": {"x": 1}, "schema_version": message.schema_version}
    assert cls.model_validate_json(json.dumps(newer)) == message


@pytest.mark.parametrize(("cls", "decoder"), DISCRIMINATED, ids=lambda value: value.__name__)
@few
@given(data=st.data())
def test_a_decoder_finds_the_class_by_its_kind(cls, decoder, data):
    message = data.draw(models(cls))
    reading = decoder()
    decoded = reading.decode(message.to_json())
    assert type(decoded) is cls
    assert decoded == message
    assert not reading.counters
    assert wire.kind_of(message.to_json()) == message.kind


def test_kinds_are_unique_within_each_union():
    for classes, _ in DECODERS:
        kinds = [cls.model_fields["kind"].default for cls in classes]
        assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("decoder", [decoder for _, decoder in DECODERS], ids=lambda value: value.__name__)
def test_a_decoder_skips_and_counts_what_it_does_not_understand(decoder):
    reading = decoder()
    for data in (
        b'{"kind":"not.yet.invented"}',
        b'{"kind":"x","call":"c"}',
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"",
        b'{"kind":7}',
    ):
        assert reading.decode(data) is None
    assert reading.counters["unknown_kind"] >= 2
    assert reading.counters.total() == 8


def test_a_known_kind_with_a_missing_field_is_malformed_not_unknown():
    reading = wire.leg_command_decoder()
    assert reading.decode(b'{"kind":"mute"}') is None
    assert reading.counters == {"malformed": 1}


@given(st.binary(max_size=60))
def test_the_kind_of_arbitrary_bytes_is_short_text(data):
    assert len(wire.kind_of(data)) <= 64


def test_events_are_deterministic_ids_in_time_with_a_zone():
    assert events.event_id("c", "gw", 3) == "c:gw:3"
    with pytest.raises(ValidationError, match="timezone"):
        events.CallMuted(event_id="c:gw:1", org="o", call="c", at="2026-01-01T00:00:00", muted=True)


def test_a_number_that_json_cannot_hold_goes_out_as_null():
    beat = heartbeat.WorkerHeartbeat(wk="w", calls=0, capacity=1, load=math.inf)
    assert json.loads(beat.to_json())["load"] is None


def test_messages_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        commands.Mute(muted=True).muted = False


# -- how a call ended ---------------------------------------------------------------------------------------

ENDINGS = {
    Result.SUCCESS: "caller_hung_up callee_hung_up agent_hung_up operator_hung_up max_duration transferred "
    "fallback_played answering_machine caller_silent",
    Result.CLIENT: "caller_cancelled no_common_codec malformed_offer no_ack rtp_timeout callee_busy callee_no_answer "
    "callee_declined number_invalid number_not_allowed not_authenticated operator_declined not_accepted outside_hours",
    Result.SERVER: "no_route unknown_agent no_worker at_capacity too_many_attempts budget_spent draining not_ready "
    "worker_lost gateway_lost internal_error",
    Result.UPSTREAM: "model_refused model_unreachable model_failed trunk_failed",
    Result.INDETERMINATE: "lost",
}
TABLE = [(result, reason) for result, reasons in ENDINGS.items() for reason in reasons.split()]


def test_the_table_below_names_every_reason_once():
    assert sorted(reason for _, reason in TABLE) == sorted(Reason)
    assert RESULT_OF.keys() == set(Reason)


@pytest.mark.parametrize(("result", "reason"), TABLE)
def test_the_reason_fixes_the_result(result, reason):
    ended = Termination.of(Reason(reason), "why")
    assert (ended.result, ended.reason, ended.detail) == (result, reason, "why")
    for other in set(Result) - {result}:
        with pytest.raises(ValidationError, match=f"belongs to result {result}"):
            Termination(result=other, reason=Reason(reason))


def test_a_termination_that_contradicts_itself_is_malformed_on_the_wire_too():
    ended = {"kind": "call.ended", "event_id": "c:gw:9", "org": "o", "call": "c", "at": "2026-01-01T00:00:00Z"}
    reading = wire.event_decoder()
    lie = ended | {"termination": {"result": "success", "reason": "model_failed"}}
    assert reading.decode(json.dumps(lie).encode()) is None
    truth = ended | {"termination": {"result": "upstream", "reason": "model_failed"}}
    assert isinstance(reading.decode(json.dumps(truth).encode()), events.CallEnded)


def test_outcomes_are_a_closed_set():
    with pytest.raises(ValidationError):
        TypeAdapter(Outcome).validate_python("delighted")


# -- configuration --------------------------------------------------------------------------------------------


def route(name, *match, precedence=0):
    return config.RouteConfig(name=name, match=match, agent="a", precedence=precedence)


@pytest.mark.parametrize(
    ("routes", "winner"),
    [
        ([route("other", "+4989")], None),
        ([route("all", "*"), route("exact", "+49301234")], "exact"),
        ([route("all", "*", precedence=1), route("exact", "+49301234")], "all"),
        ([route("berlin", "+4930*"), route("germany", "+49*")], "berlin"),
        ([route("b", "+49*"), route("a", "+49*")], "a"),
        ([route("a-wide", "+49301234*"), route("z-exact", "+49301234")], "z-exact"),
        # the length of a pattern that does not match says nothing
        ([route("wide", "+49*", "a-very-long-user-name"), route("narrow", "+4930*")], "narrow"),
        ([route("many", "sales", "+49*", "+49301*")], "many"),
        ([], None),
    ],
)
def test_the_route_is_the_one_of_highest_precedence_then_most_specific_then_first_by_name(routes, winner):
    for order in routes, routes[::-1]:
        found = config.route_for(order, "+49301234")
        assert (found and found.name) == winner


def test_configuration_names_must_fit_into_subjects_and_keys():
    assert route("r").key == "route.default.r"
    assert config.AgentConfig(name="a", org="o").key == "agent.o.a"
    assert config.OrgConfig(name="o").key == "org.o"
    for make in (
        lambda: config.AgentConfig(name="a.b"),
        lambda: config.AgentConfig(name="a", org="*"),
        lambda: config.OrgConfig(name=""),
        lambda: config.RouteConfig(name="r", match=(), agent="a b"),
    ):
        with pytest.raises(ValidationError, match="not a subject token"):
            make()


def test_a_fallback_message_is_base64():
    with pytest.raises(ValidationError, match="not base64"):
        config.Fallback(kind="message", message_ulaw_b64="äöü!")


def test_a_fallback_message_needs_its_audio():
    with pytest.raises(ValidationError, match="WAV"):
        config.Fallback(kind="message")
