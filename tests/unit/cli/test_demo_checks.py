"""The demo's verdict: it is good only when everything holds, and each fault fails its own line."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from cli.demo.caller import read_clips
from cli.demo.checks import Check, Evidence, Said, conversation_checks, takeover_checks
from cli.demo.script import ORDER, STEPS
from libs.contracts import events as ev
from libs.contracts.media import MediaStatistics
from libs.contracts.termination import Reason, Termination

COMMON: dict[str, Any] = {"event_id": "c:x:1", "org": "default", "call": "c", "at": datetime.now(UTC)}
TEXTS = ["Zehn T-Stücke.", "Bitte bestellen."]
SPEECH = (np.random.default_rng(1).normal(0, 3000, 16_000)).astype("<i2").tobytes()  # 2 s
HEARD = "what the ledger says was heard was heard (≥ 0.9)"
CUT_OFF = "what was cut off was not heard, and the model knows"
TURNS = "every agent turn is stored once, in the model's words"
LINES = [{"quantity": line.quantity, "name": f"{line.name}Kupfer", "article_number": "1"} for line in ORDER]


def good() -> dict[str, Any]:
    turn = ev.AgentTurn(
        item="i",
        response="r",
        text="Ja. Und?",
        heard_text="Ja.",
        audio_ms=2000,
        heard_ms=1000,
        interrupted=True,
        **COMMON,
    )
    lines = (ev.OrderLine(article_number="1", name="x", quantity=1, unit_price_eur="1.00", line_total_eur="1.00"),)
    placed = ev.OrderPlaced(order_id="o", number="1", basket_revision=1, lines=lines, total_eur="1.00", **COMMON)
    end = ev.CallEnded(termination=Termination.of(Reason.CALLER_HUNG_UP), **COMMON)
    agent = {"speaker": "agent", "item": "i", "text": "Ja. Und?", "interrupted": True}
    callers = [{"speaker": "caller", "text": text, "interrupted": False} for text in TEXTS]
    return {
        "events": [turn, placed, end],
        "conversation": {"conversation": {"outcome": "ordered"}, "turns": [callers[0], agent, callers[1]]},
        "orders": [{"lines": LINES}],
        "heard": bytes(1600) + SPEECH[:16_000] + bytes(1600),  # one second of it, as the ledger says
        "items": {"i": Said("", SPEECH, 1000)},
    }


def failed(evidence: dict[str, Any]) -> list[str]:
    return [check.text for check in conversation_checks(Evidence(**evidence), TEXTS, ORDER) if not check.passed]


def test_a_good_call_passes() -> None:
    assert failed(good()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: e["conversation"]["turns"].pop(0), ["every caller turn is stored, word for word"]),
        (lambda e: e["orders"].append(e["orders"][0]), ["the order is stored exactly once"]),
        (lambda e: e["orders"].__setitem__(0, {"lines": LINES[:2]}), ["its lines are right"]),
        (lambda e: e["conversation"]["turns"][1].update(interrupted=False), ["the caller interrupted the agent once"]),
        (lambda e: e["events"].append(e["events"][-1]), ["the call ended exactly once"]),
        (
            lambda e: e["conversation"]["conversation"].update(outcome="answered"),
            ["its outcome is 'ordered'"],
        ),
        (lambda e: e.update(heard=bytes(16_000)), [HEARD]),
        (lambda e: e.update(items={}), [HEARD]),
        (
            lambda e: e.update(heard=bytes(1600) + SPEECH + bytes(1600)),
            [CUT_OFF],
        ),
        (
            lambda e: e["items"].update(i=Said("", SPEECH, 1500)),
            [CUT_OFF],
        ),
        (
            lambda e: e["conversation"]["turns"].append(dict(e["conversation"]["turns"][1], interrupted=False)),
            [TURNS],
        ),
        (
            lambda e: e["conversation"]["turns"][1].update(item="x"),
            [TURNS],
        ),
    ],
)
def test_each_fault_fails_its_line(change: Any, expected: list[str]) -> None:
    evidence = good()
    change(evidence)
    assert failed(evidence) == expected


def test_a_turn_that_a_dead_worker_left_is_not_the_callers_interruption() -> None:
    evidence = good()
    left = {"speaker": "agent", "item": "k", "text": "Gern.", "interrupted": True}
    sorry = {"speaker": "agent", "item": "l", "text": "Entschuldigung.", "interrupted": False}
    evidence["conversation"]["turns"] += [left, sorry]
    assert failed(evidence) == []


def test_a_takeover_needs_two_workers_and_two_epochs() -> None:
    first = ev.CallClaimed(wk="wk-1", epoch=1, **COMMON)
    second = ev.CallClaimed(wk="wk-2", epoch=2, cause="failover", **COMMON)

    def passed(*claims: ev.CallClaimed) -> list[bool]:
        return [check.passed for check in takeover_checks(claims) if isinstance(check, Check)]

    assert passed(first, second) == [True, True]
    assert passed(first) == [False, True]
    assert passed(first, first) == [False, False]


def test_every_clip_of_the_script_is_in_the_repository() -> None:
    clips = read_clips()
    assert list(clips) == [step.clip for step in STEPS]
    assert all(len(clip.pcm) > 8000 and clip.text for clip in clips.values())


def test_a_voice_at_real_time_pace_may_falter_and_nothing_of_it_may_be_missing() -> None:
    call = good()
    said = SPEECH[:16_000]
    faltering = said[:7000] + bytes(640) + said[7000:]  # 40 ms, where the machine was late
    call["heard"] = bytes(1600) + faltering + bytes(1600)
    assert failed(call) == [HEARD]
    call["items"] = {"i": Said("", SPEECH, paced=True)}
    assert failed(call) == []
    missing = said[:4000] + bytes(8000) + said[12_000:]
    assert failed(call | {"heard": bytes(1600) + missing + bytes(1600)}) == [HEARD]


def test_a_torn_voice_is_explained_by_what_the_entrance_counted() -> None:
    evidence = good()
    evidence["heard"] = bytes(16_000)
    end = evidence["events"][-1]
    evidence["events"][-1] = end.model_copy(update={"media": MediaStatistics(dn_underrun=2, dn_lost=1)})
    checks = {check.text: check for check in conversation_checks(Evidence(**evidence), TEXTS, ORDER)}
    assert checks[HEARD].detail.endswith("; on its way: 2 underruns, 1 frames lost on the bus")
