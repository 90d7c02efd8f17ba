"""What organisations spent on a day: the sum of what each worker told last, in whatever order it came."""

from datetime import date

from hypothesis import given, strategies as st

from libs.contracts.spending import DaySpending, Spendings, spending_key

DAY, BEFORE = date(2026, 11, 21), date(2026, 11, 20)


def told(org, wk, usd, day=DAY):
    return spending_key(org, day, wk), DaySpending(usd=usd).to_json()


@given(st.lists(st.tuples(st.sampled_from(["w1", "w2", "w3"]), st.floats(0, 1e4)), max_size=30))
def test_the_sum_is_that_of_the_last_word_of_each_worker(said):
    spendings = Spendings()
    for wk, usd in said:
        spendings.take(*told("acme", wk, usd))
        spendings.take(*told("acme", wk, usd))  # a repeated write changes nothing
    last = dict(said)
    assert spendings.total("acme", DAY) == sum(last[wk] for wk in dict.fromkeys(wk for wk, _ in said))
    assert spendings.total("acme", BEFORE) == spendings.total("other", DAY) == 0


def test_days_are_apart_and_forgotten_when_they_are_over():
    spendings = Spendings()
    spendings.take(*told("acme", "w1", 3, BEFORE))
    spendings.take(*told("acme", "w1", 2))
    spendings.take(*told("b", "w1", 1))
    assert spendings.of_day(DAY) == {"acme": 2, "b": 1}
    spendings.forget_before(DAY)
    assert spendings.total("acme", BEFORE) == 0
    assert spendings.total("acme", DAY) == 2


def test_one_worker_can_be_left_out_and_a_removed_key_counts_no_more():
    spendings = Spendings()
    spendings.take(*told("acme", "w1", 3))
    spendings.take(*told("acme", "w2", 4))
    assert spendings.total("acme", DAY, without="w1") == 4
    spendings.take(spending_key("acme", DAY, "w2"), None)
    assert spendings.total("acme", DAY) == 3


def test_what_cannot_be_read_is_counted_and_changes_nothing():
    spendings = Spendings()
    spendings.take(*told("acme", "w1", 3))
    key = spending_key("acme", DAY, "w1")
    for bad in (b"{", b'{"usd": -1}', b'{"usd": "lots"}', b'{"usd": 1e999}'):
        spendings.take(key, bad)
    spendings.take("acme", b"{}")
    spendings.take("acme.yesterday.w1", b'{"usd": 1}')
    assert spendings.malformed == 6
    assert spendings.total("acme", DAY) == 3
