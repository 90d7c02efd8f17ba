"""Money: the model table, usage of every kind, and what it costs."""

from datetime import date

import pytest
from hypothesis import given, strategies as st

from services.ai_session.costs import (
    Model,
    Models,
    ModelsFileError,
    RunningTotal,
    load,
    tokens_of,
    tokens_of_speech,
    tokens_of_text,
)
from services.ai_session.settings import BUILT_IN_MODELS

TABLE = load(BUILT_IN_MODELS)
KEYS = ("text_in", "text_cached", "text_out", "audio_in", "audio_cached", "audio_out")
USAGE = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 200_000))
PRICED = sorted(name for name, model in TABLE.models.items() if model.is_priced)


def test_every_model_that_ends_names_a_replacement_that_lasts_longer():
    for name, model in TABLE.models.items():
        if model.shutdown is None:
            continue
        assert model.replacement, name
        successor = TABLE.models[model.replacement]
        assert successor.shutdown is None or successor.shutdown > model.shutdown, name


def test_every_entry_says_what_kind_of_model_it_is():
    assert all(model.kind for model in TABLE.models.values())


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("tts-1", date(2027, 1, 6)),
        ("gpt-4o-mini-tts-2025-12-15", date(2027, 1, 6)),
        ("gpt-realtime-2025-08-28", date(2027, 1, 20)),
        ("gpt-audio-mini", date(2027, 1, 20)),
        ("gpt-4o-mini-transcribe-2025-12-15", date(2027, 2, 26)),
        ("gpt-4o", date(2027, 1, 14)),
        ("gpt-5-nano", date(2026, 12, 11)),
        ("o3-2025-04-16", date(2026, 12, 11)),
    ],
)
def test_shutdown_dates_hold_for_aliases_and_dated_ids(name, ends):
    assert TABLE.get(name).shutdown == ends


def test_a_dated_id_costs_what_the_undated_one_costs():
    assert TABLE.get("gpt-realtime-2.1-2026-08-01") is TABLE.get("gpt-realtime-2.1")
    assert TABLE.get("of-somebody-else-2026-08-01") == Model()


@pytest.mark.parametrize(
    ("model", "priced"),
    [
        (Model(kind="realtime", text_in=1, text_out=1, audio_in=1, audio_out=1), True),
        (Model(kind="realtime", text_in=1, text_out=1), False),
        (Model(kind="live", minute=1), True),
        (Model(kind="transcription", audio_in=1, text_out=1), True),
        (Model(kind="transcription"), False),
        (Model(kind="chat", text_in=1, text_out=1), True),
        (Model(kind="chat", text_in=1), False),
        (Model(kind="speech", characters=1), True),
        (Model(kind="speech", text_in=1, audio_out=1), True),
        (Model(kind="speech", text_in=1), False),
    ],
)
def test_a_price_is_complete_when_it_covers_what_the_kind_bills(model, priced):
    assert model.is_priced is priced


@given(st.sampled_from(PRICED), USAGE, st.floats(0, 1e5), st.integers(0, 10_000))
def test_no_cost_is_ever_negative(name, tokens, seconds, characters):
    found = (
        TABLE.cost_of_response(name, tokens),
        TABLE.cost_of_transcription(name, tokens, seconds),
        TABLE.cost_of_speech(name, characters=characters, tokens=tokens, seconds=seconds),
        TABLE.cost_of_session(name, seconds),
    )
    assert all(cost is None or cost >= 0 for cost in found)


@given(st.sampled_from(["gpt-realtime-2.1", "gpt-realtime-2.1-mini"]), USAGE)
def test_a_cached_token_never_costs_more_and_no_more_are_cached_than_were_sent(name, tokens):
    uncached = {key: count for key, count in tokens.items() if not key.endswith("_cached")}
    everything = {**tokens, "text_cached": tokens.get("text_in", 0), "audio_cached": tokens.get("audio_in", 0)}
    least, cost, most = (TABLE.cost_of_response(name, each) for each in (everything, tokens, uncached))
    assert least - 1e-12 <= cost <= most + 1e-12


@given(st.lists(st.floats(0, 3600), max_size=30))
def test_cumulative_reports_in_any_order_add_up_to_the_highest(totals):
    running = RunningTotal()
    assert sum(running.grown_to(total) for total in totals) == pytest.approx(max(totals, default=0.0))


def test_a_voice_in_the_realtime_api_costs_by_token_and_others_by_character_or_minute():
    table = Models({"by-text": Model(characters=0.1), "by-time": Model(minute=0.6)})
    assert table.cost_of_speech("by-text", characters=500, seconds=9) == pytest.approx(0.05)
    assert table.cost_of_speech("by-time", characters=500, seconds=30) == pytest.approx(0.3)
    assert table.cost_of_speech("unheard-of", characters=500, seconds=30) is None
    spoken = tokens_of_speech({"input_tokens": 100, "output_tokens": 50})
    assert TABLE.cost_of_speech("gpt-realtime-2.1-mini", tokens=spoken) == pytest.approx((60 + 1000) / 1e6)


def test_session_time_and_transcriptions_cost_by_the_minute():
    assert TABLE.cost_of_session("gpt-live-1", 90) == pytest.approx(0.075)
    assert TABLE.cost_of_session("gpt-realtime-2.1", 90) is None
    assert TABLE.cost_of_transcription("gpt-transcribe", {}, 120) == pytest.approx(0.009)
    assert TABLE.cost_of_transcription("gpt-transcribe", {"audio_in": 600}, None) == pytest.approx(0.0045)
    assert TABLE.cost_of_transcription("gpt-transcribe", {}, None) is None
    by_token = TABLE.cost_of_transcription("gpt-4o-transcribe", {"audio_in": 1000, "text_out": 100}, 60)
    assert by_token == pytest.approx(0.0035)


def test_usage_of_chat_completions_and_of_the_responses_api_is_the_same_to_us():
    chat = {
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "total_tokens": 1200,
        "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": None},
        "completion_tokens_details": {"reasoning_tokens": 50},
    }
    responses = {
        "input_tokens": 1000,
        "output_tokens": 200,
        "input_tokens_details": {"cached_tokens": 400},
        "output_tokens_details": {"reasoning_tokens": 50},
    }
    expected = {"text_in": 1000, "text_cached": 400, "text_out": 200}
    assert tokens_of_text(chat) == tokens_of_text(responses) == expected
    assert TABLE.cost_of_response("gpt-6.1-terra", expected) == pytest.approx((600 + 400 * 0.05 + 200 * 5) / 1e6)


@pytest.mark.parametrize("strange", [None, 3, [], {"prompt_tokens": "many"}, {"input_tokens": -4}])
def test_strange_usage_counts_as_nothing(strange):
    assert tokens_of_text(strange) == tokens_of_speech(strange) == tokens_of(strange) == {}


def test_details_that_tell_no_kind_leave_the_total_to_be_paid():
    usage = {
        "input_tokens": 300,
        "output_tokens": 40,
        "input_token_details": {"cached_tokens": 0},
        "output_token_details": {"text_tokens": None, "audio_tokens": None},
    }
    assert tokens_of(usage) == {"audio_in": 300, "audio_out": 40}
    assert tokens_of(usage, speaks=False) == {"audio_in": 300, "text_out": 40}


def test_a_cached_token_without_a_price_of_its_own_costs_as_much_as_the_others():
    table = Models({"m": Model(kind="chat", text_in=2, text_out=4)})
    assert table.cost_of_response("m", {"text_in": 10, "text_cached": 10}) == pytest.approx(20 / 1e6)


def test_a_negative_price_is_a_mistake(tmp_path):
    file = tmp_path / "models.toml"
    file.write_text('[models."m"]\ntext_in = -1\n')
    with pytest.raises(ModelsFileError, match=r"models\.m\.text_in"):
        load(file)
