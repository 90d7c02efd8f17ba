"""A call's events in any order, any number of times, make the same rows; and the rows are the right ones."""

from datetime import timedelta

import pytest
from hypothesis import given, settings, strategies as st

from libs.contracts.events import AgentText, CallClaimed, CallEnded, CallTakenOver, Event, WorkerLost
from libs.contracts.termination import Outcome, Reason, Termination
from services.transcript_store.outcome import outcome_of
from services.transcript_store.projection import Projection, project
from tests.support.builders import CallScript, demo_call

EVENTS = demo_call().events
EXPECTED = project(EVENTS)


def said(made: Projection) -> list[tuple[str, str]]:
    return [(row["speaker"], row["text"]) for row in made.turns]


@settings(max_examples=60, deadline=None)
@given(st.permutations(EVENTS), st.lists(st.sampled_from(EVENTS), max_size=40), st.randoms())
def test_any_order_and_any_repetition_make_the_same_rows(order: list[Event], again: list[Event], chance) -> None:
    mixed = order + again
    chance.shuffle(mixed)
    assert project(mixed) == EXPECTED


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(EVENTS), min_size=1))
def test_any_part_of_a_call_can_be_projected(part: list[Event]) -> None:
    made = project(part)
    assert made.conversation["call"] == "01JDEMO"
    assert all(row["text"] for row in made.turns)


def test_turns_stand_in_the_order_they_were_spoken() -> None:
    assert said(EXPECTED) == [
        ("agent", "Guten Tag, hier ist die Bestellannahme. Sie sprechen mit einer KI."),
        ("caller", "Zehn T-Stücke, 22 Millimeter."),
        ("agent", "Einen Moment, ich schaue nach."),
        ("agent", "Ich habe drei gefunden. Das erste ist aus Kupfer."),
        ("caller", "Kupfer."),
        ("agent", "Gut, Kupfer. Zehn Stück kommen in den Korb. Noch etwas?"),
        ("agent", "Entschuldigung, da war eine Störung."),
        ("caller", "Das ist alles."),
        ("agent", "Die Bestellung ist aufgegeben. Auf Wiederhören."),
    ]


def test_an_interrupted_turn_keeps_what_was_heard() -> None:
    turn = EXPECTED.turns[3]
    assert (turn["heard_text"], turn["interrupted"], turn["heard_ms"]) == ("Ich habe drei gefunden.", True, 1000)


def test_a_turn_left_open_by_a_dead_worker_ends_where_rtp_did() -> None:
    turn = EXPECTED.turns[5]  # its sentences begin at 6, 7 and 8 s of the epoch; 9.4 s were played
    assert (turn["heard_text"], turn["interrupted"]) == (
        "Gut, Kupfer. Zehn Stück kommen in den Korb. Noch etwas?",
        True,
    )
    assert turn["heard_ms"] == pytest.approx(3400)


@pytest.mark.parametrize(
    ("played_ms", "heard"),
    [(0, None), (1, "Eins."), (1000, "Eins."), (1001, "Eins. Zwei."), (5000, "Eins. Zwei.")],
)
@pytest.mark.parametrize("told_by", ["worker_lost", "claimed", "both"])
def test_sentences_that_began_before_the_played_position_were_heard(
    played_ms: int, heard: str | None, told_by: str
) -> None:
    script = CallScript().offered().claimed().answered()
    script.sentences("Eins.", "Zwei.")
    script.lost(played_ms).claimed("wk-2", previous_played=played_ms * 8)
    left_out = {"worker_lost": CallClaimed, "claimed": WorkerLost, "both": CallEnded}[told_by]
    events = [e for e in script.events if not (isinstance(e, left_out) and e.at > script.events[4].at)]
    turns = project(events).turns
    assert [turn["heard_text"] for turn in turns] == ([] if heard is None else [heard])
    assert all(turn["interrupted"] and turn["text"] == "Eins. Zwei." for turn in turns)


def test_the_workers_own_word_on_a_turn_counts_more_than_the_fence() -> None:
    script = CallScript().offered().claimed().answered().agent("Eins.", "Zwei.", heard=1).lost(5000)
    assert [turn["heard_text"] for turn in project(script.events).turns] == ["Eins."]


def left_open(seconds: float, reason: Reason = Reason.CALLER_HUNG_UP) -> CallScript:
    """Three sentences of a second each, all published 0.5 s apart; the call ends some time after the last."""
    script = CallScript().offered().claimed().answered()
    script.sentences("Eins.", "Zwei.", "Drei.")
    assert project(script.events).turns == ()  # the worker may still say what was heard
    return script.wait(seconds).ended(reason)


@pytest.mark.parametrize(
    ("seconds", "heard"), [(0.0, "Eins. Zwei."), (0.51, "Eins. Zwei. Drei."), (60.0, "Eins. Zwei. Drei.")]
)
def test_a_turn_left_open_by_a_hang_up_shows_what_there_was_time_for(seconds: float, heard: str) -> None:
    [turn] = project(left_open(seconds).events).turns
    assert (turn["text"], turn["heard_text"], turn["interrupted"]) == ("Eins. Zwei. Drei.", heard, True)
    assert turn["heard_ms"] is None  # nobody measured it


@pytest.mark.parametrize("reason", [Reason.LOST, Reason.GATEWAY_LOST])
def test_an_end_that_was_noticed_late_leaves_open_what_was_heard(reason: Reason) -> None:
    [turn] = project(left_open(30, reason).events).turns
    assert (turn["text"], turn["heard_text"], turn["interrupted"]) == ("Eins. Zwei. Drei.", None, True)


def test_a_turn_of_an_earlier_worker_is_not_measured_by_the_end_of_the_call() -> None:
    script = CallScript().offered().claimed().answered()
    script.sentences("Eins.")
    [turn] = project(script.claimed("wk-2").wait(9).ended().events).turns
    assert turn["heard_text"] is None


def test_after_a_hang_up_the_workers_own_word_counts_more() -> None:
    script = CallScript().offered().claimed().answered().agent("Eins.", "Zwei.", heard=1).wait(30).ended()
    assert [(turn["heard_text"], turn["heard_ms"]) for turn in project(script.events).turns] == [("Eins.", 1000)]


def changed(event: Event, **fields: object) -> Event:
    return event.model_copy(update=fields)


def claim(script: CallScript, epoch: int, wk: str, previous_wk: str, previous_played: int) -> CallClaimed:
    fields = script._fields("gw", epoch)
    return CallClaimed(**fields, wk=wk, cause="failover", previous_wk=previous_wk, previous_played=previous_played)


def test_events_of_one_moment_stand_in_the_order_of_their_source() -> None:
    script = CallScript().offered().claimed().answered()
    for n in range(12):
        script.usage(float(n))
    at = script.now
    events = [changed(event, at=at) if event.event_id.split(":")[1] == "wk1" else event for event in script.events]
    assert [row["cost_usd"] for row in project(reversed(events)).usage] == [float(n) for n in range(12)]


def test_what_was_played_belongs_to_the_last_attempt_of_the_worker_that_played_it() -> None:
    script = CallScript().offered().claimed().answered()
    script.sentences("Eins.", "Zwei.")
    script.claimed("wk-2")  # it accepted, and never spoke
    script.sentences("Drei.")
    script.events.append(claim(script, 3, "wk-3", "wk-1", 8000))
    assert [(turn["epoch"], turn["heard_text"]) for turn in project(script.events).turns] == [(1, "Eins.")]


def test_the_sentence_before_a_take_over_was_heard_as_far_as_it_was_played() -> None:
    script = CallScript().offered().claimed().answered()
    script.sentences("Eins.", "Zwei.")
    fields = script._fields("gw", 2)
    script.events.append(CallTakenOver(**fields, by="op-1", previous_wk="wk-1", previous_played=8000))
    assert [(turn["epoch"], turn["heard_text"]) for turn in project(script.events).turns] == [(1, "Eins.")]


def test_what_was_played_belongs_to_who_spoke_when_no_earlier_claim_is_known() -> None:
    script = CallScript().offered().claimed().answered()
    script.sentences("Eins.", "Zwei.")
    script.claimed("wk-2", previous_played=8001)
    events = [event for event in script.events if not (isinstance(event, CallClaimed) and event.epoch == 1)]
    assert [turn["heard_text"] for turn in project(events).turns] == ["Eins. Zwei."]


@pytest.mark.parametrize("played", [(8000, 8001), (8001, 8000)])
def test_of_two_positions_of_one_attempt_the_further_counts(played: tuple[int, int]) -> None:
    script = CallScript().offered().claimed().answered()
    script.sentences("Eins.", "Zwei.")
    script.events += [claim(script, 2, "wk-2", "wk-1", played[0]), claim(script, 3, "wk-3", "wk-1", played[1])]
    assert [turn["heard_text"] for turn in project(script.events).turns] == ["Eins. Zwei."]


def test_an_order_told_twice_is_one() -> None:
    script = CallScript().offered().claimed().answered().ordered()
    again = changed(script.events[-1], event_id="01JCALL:replay:0")
    assert len(project([*script.events, again]).orders) == 1
    assert len(project(script.ordered(2).events).orders) == 2


def test_a_call_began_when_it_was_offered_else_with_the_first_thing_known() -> None:
    script = CallScript().offered().claimed().answered()
    early = changed(script.events[1], at=script.events[0].at - timedelta(seconds=1))
    assert project([script.events[0], early]).conversation["began_at"] == script.events[0].at
    assert project(script.events[1:]).conversation["began_at"] == script.events[1].at


def test_what_was_heard_is_measured_at_the_calls_own_rate() -> None:
    script = CallScript().offered().claimed().answered()
    script.events[-1] = changed(script.events[-1], rate_hz=16000)
    script.sentences("Eins.")
    script.lost(played_ms=500)  # 4000 samples
    assert [turn["heard_ms"] for turn in project(script.events).turns] == [250]


def test_a_transcript_that_failed_is_marked() -> None:
    script = CallScript().offered().claimed().answered().caller("Eins.").caller("Zwei.")
    script.events[-1] = changed(script.events[-1], failed=True)
    assert [turn["failed"] for turn in project(script.events).turns] == [False, True]


def test_a_turn_whose_sentences_are_unknown_began_as_long_ago_as_it_was_heard() -> None:
    script = CallScript().offered().claimed().answered().agent("Eins.", "Zwei.")
    [turn] = project([event for event in script.events if not isinstance(event, AgentText)]).turns
    assert turn["ended_at"] - turn["started_at"] == timedelta(milliseconds=2000)


def test_a_caller_who_went_on_speaking_began_with_the_first_word() -> None:
    script = CallScript().offered().claimed().answered().caller("Eins und zwei.")
    spoke, turn = script.events[-2:]
    went_on = changed(spoke, event_id="01JCALL:wk1:7", at=spoke.at + timedelta(milliseconds=300))
    told = changed(turn, started_at=None)
    [row] = project([*script.events[:-1], went_on, told]).turns
    assert row["started_at"] == spoke.at


def test_sentences_of_different_epochs_are_different_turns() -> None:
    script = CallScript().offered().claimed().answered()
    item, _ = script.sentences("Eins.")
    script.lost(500).claimed("wk-2", previous_played=4000)
    text = AgentText(**script._worker(), item=item, from_sample=0, text="Noch einmal.")
    script.events.append(text)
    script.lost(500)
    assert [(t["epoch"], t["heard_text"]) for t in project(script.events).turns] == [(1, "Eins."), (2, "Noch einmal.")]


def test_the_conversation_sums_up_the_call() -> None:
    conversation = EXPECTED.conversation
    assert conversation["outcome"] == "ordered"
    assert (conversation["result"], conversation["reason"]) == ("success", "caller_hung_up")
    assert conversation["cost_usd"] == 0.0325
    assert [(w["wk"], w["epoch"], w["cause"], w["lost"]) for w in conversation["workers"]] == [
        ("wk-1", 1, "first", "gone"),
        ("wk-2", 2, "failover", None),
    ]
    assert conversation["media"]["rtp_received"] == 1500
    assert conversation["offered_at"] < conversation["answered_at"] < conversation["ended_at"]
    assert conversation["duration_ms"] > conversation["talk_ms"] > 0


def test_tool_calls_usage_latencies_and_orders_are_kept() -> None:
    assert [(t["name"], t["ok"], t["took_ms"]) for t in EXPECTED.tool_calls] == [
        ("search_products", True, 12.5),
        ("order_submit", True, 12.5),
    ]
    assert [u["cost_usd"] for u in EXPECTED.usage] == [0.0125, 0.02, None]
    assert [latency["stopped_to_heard_ms"] for latency in EXPECTED.latencies] == [640, 710]
    assert [order["number"] for order in EXPECTED.orders] == ["100001"]


def test_events_of_two_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="exactly one call"):
        project(CallScript("a").offered().events + CallScript("b").offered().events)
    with pytest.raises(ValueError, match="exactly one call"):
        project([])


def test_of_two_ends_the_earlier_counts() -> None:
    script = CallScript().offered().claimed().answered().ended()
    late = script.events[-1].model_copy(
        update={
            "event_id": "01JCALL:janitor:0",
            "at": script.now + timedelta(seconds=30),
            "termination": Termination.of(Reason.LOST),
        }
    )
    assert project([late, *script.events]).conversation["reason"] == "caller_hung_up"


@pytest.mark.parametrize(
    ("reason", "answered", "ordered", "outcome"),
    [
        (Reason.CALLER_HUNG_UP, True, True, Outcome.ORDERED),
        (Reason.LOST, True, True, Outcome.ORDERED),
        (Reason.TRANSFERRED, True, False, Outcome.TRANSFERRED),
        (Reason.FALLBACK_PLAYED, True, False, Outcome.MESSAGE),
        (Reason.FALLBACK_PLAYED, False, False, Outcome.MESSAGE),
        (Reason.CALLER_HUNG_UP, True, False, Outcome.ANSWERED),
        (Reason.AGENT_HUNG_UP, True, False, Outcome.ANSWERED),
        (Reason.MAX_DURATION, True, False, Outcome.ANSWERED),
        (Reason.CALLER_CANCELLED, False, False, Outcome.ABANDONED),
        (Reason.CALLER_HUNG_UP, False, False, Outcome.ABANDONED),
        (Reason.NO_WORKER, False, False, Outcome.NO_AGENT),
        (Reason.NO_ROUTE, False, False, Outcome.NO_AGENT),
        (Reason.UNKNOWN_AGENT, False, False, Outcome.NO_AGENT),
        (Reason.AT_CAPACITY, False, False, Outcome.NO_AGENT),
        (Reason.NO_WORKER, True, False, Outcome.FAILED),
        (Reason.RTP_TIMEOUT, True, False, Outcome.FAILED),
        (Reason.MODEL_FAILED, True, False, Outcome.FAILED),
        (Reason.NO_COMMON_CODEC, False, False, Outcome.FAILED),
        (Reason.LOST, True, False, Outcome.FAILED),
    ],
)
def test_the_outcome_says_what_came_of_the_call(
    reason: Reason, answered: bool, ordered: bool, outcome: Outcome
) -> None:
    assert outcome_of(Termination.of(reason), answered=answered, ordered=ordered) is outcome


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("answered", [True, False])
def test_every_reason_has_an_outcome(reason: Reason, answered: bool) -> None:
    assert outcome_of(Termination.of(reason), answered=answered, ordered=False) in Outcome
