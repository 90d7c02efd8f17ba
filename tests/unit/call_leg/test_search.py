"""Whom a leg asks, and when it stops asking."""

from libs.call_leg.roster import Roster
from libs.call_leg.search import OFFER_TIMEOUT_S, PATIENT_OFFER_TIMEOUT_S, SETUP_PATIENCE_S, WorkerSearch
from libs.contracts.termination import Reason, Termination

T0 = 100.0


def search(*workers: str) -> WorkerSearch:
    """On a sound link with these workers."""
    roster = Roster()
    roster.link_up(T0 - 10)
    for at in (T0 - 0.2, T0 - 0.1):
        roster.echoed(at)
        for wk in workers:
            roster.heartbeat(wk, at, calls=0, capacity=5, draining=False)
    roster.ticked(0.0, T0)
    made = WorkerSearch(roster)
    made.set_up(T0)
    return made


def test_workers_that_were_only_silent_are_asked_again_with_more_time():
    made = search("a", "b")
    for _ in "ab":
        assert made.offer_timeout_s == OFFER_TIMEOUT_S
        made.silent(made.next(is_connected=False))
    assert made.next(is_connected=False) is None
    assert made.given_up(is_connected=False, is_patient=False, now=T0 + 0.2) is None
    assert made.next(is_connected=False) in ("a", "b")
    assert made.offer_timeout_s == PATIENT_OFFER_TIMEOUT_S


def test_the_patience_of_set_up_has_an_end():
    made = search("a")
    made.silent(made.next(is_connected=False))
    end = made.given_up(is_connected=False, is_patient=False, now=T0 + SETUP_PATIENCE_S)
    assert end is not None
    assert end.reason is Reason.NO_WORKER


def test_a_refusal_is_a_word_and_ends_the_search_at_once():
    made = search("a")
    made.exclude(made.next(is_connected=False))
    assert made.given_up(is_connected=False, is_patient=False, now=T0 + 0.1).reason is Reason.NO_WORKER


def test_who_failed_and_said_so_is_believed_although_another_was_silent():
    made = search("a", "b")
    made.silent(made.next(is_connected=False))
    made.exclude(made.next(is_connected=False))
    made.failed(Termination.of(Reason.MODEL_REFUSED, "no key"))
    assert made.given_up(is_connected=False, is_patient=False, now=T0 + 0.2).reason is Reason.MODEL_REFUSED


def test_a_worker_that_was_found_in_the_second_round_ends_the_patience():
    made = search("a")
    made.silent(made.next(is_connected=False))
    made.given_up(is_connected=False, is_patient=False, now=T0 + 0.1)
    made.found()
    assert made.offer_timeout_s == OFFER_TIMEOUT_S
