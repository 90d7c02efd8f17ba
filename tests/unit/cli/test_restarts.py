"""The restart core: when a dead process is started again."""

from cli.restarts import Restarts


def test_waits_double_from_one_second_to_thirty() -> None:
    restarts = Restarts()
    now, waits = 100.0, []
    for _ in range(8):
        restarts.started("worker", now)
        now += 0.5
        waits.append(restarts.died("worker", now))
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert restarts.count("worker") == 8


def test_a_process_that_ran_for_a_minute_begins_anew() -> None:
    restarts = Restarts()
    for now in (0.0, 10.0, 20.0):
        restarts.started("worker", now)
        restarts.died("worker", now + 1)
    restarts.started("worker", 30.0)
    assert restarts.died("worker", 89.9) == 8
    restarts.started("worker", 100.0)
    assert restarts.died("worker", 160.0) == 1


def test_processes_are_judged_apart() -> None:
    restarts = Restarts()
    restarts.started("a", 0.0)
    restarts.died("a", 1.0)
    assert restarts.died("b", 1.0) == 1
    assert (restarts.count("a"), restarts.count("b"), restarts.count("c")) == (1, 1, 0)
