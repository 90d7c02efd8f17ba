"""Models that end: which are in use, who is warned, and what the endpoint itself says."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

import pytest
from aiohttp import web
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from libs.contracts.agent import AgentConfig, Budget, Speech, Transcription
from libs.contracts.offer import Offer
from services.ai_session import exporting
from services.ai_session.backends.factory import plan_scripted
from services.ai_session.costs import Model, Models, load
from services.ai_session.model_listing import WatchedPlans, ask
from services.ai_session.model_watch import MOST_MODELS, Defaults, ModelWatch, models_of, shutdown_dates
from services.ai_session.settings import BUILT_IN_MODELS
from tests.support.http import app_of, serving

TODAY = date(2026, 11, 21)
TABLE = load(BUILT_IN_MODELS)
USUAL = Defaults(
    realtime="gpt-realtime-2.1",
    live="gpt-live-1",
    chat="gpt-5.6-luna",
    transcription="gpt-transcribe",
    speech_provider="openai",
    elevenlabs="eleven_flash_v2_5",
)


def agent(**fields):
    return AgentConfig(name="a", **fields)


@pytest.mark.parametrize(
    ("config", "used"),
    [
        (agent(), {"gpt-realtime-2.1", "gpt-transcribe"}),
        (agent(model="m", transcription=Transcription(model="whisper-1")), {"m", "whisper-1"}),
        (agent(speech=Speech(provider="elevenlabs")), {"gpt-realtime-2.1", "gpt-transcribe", "eleven_flash_v2_5"}),
        (agent(backend="live"), {"gpt-live-1", USUAL.chat}),
        (agent(backend="live", backend_options={"chat_model": "gpt-5"}), {"gpt-live-1", "gpt-5"}),
        (agent(backend="pipeline"), {"gpt-5.6-luna", "gpt-transcribe", "gpt-4o-mini-tts"}),
        (
            agent(backend="pipeline", model="m", speech=Speech(provider="realtime")),
            {"m", "gpt-transcribe", "gpt-realtime-2.1-mini"},
        ),
        (
            agent(backend="pipeline", speech=Speech(provider="openai", model="tts-1")),
            {"gpt-5.6-luna", "gpt-transcribe", "tts-1"},
        ),
        (agent(backend="pipeline", speech=Speech(provider="local")), {"gpt-5.6-luna", "gpt-transcribe"}),
        (agent(backend="scripted"), set()),
    ],
)
def test_the_models_of_an_agent(config, used):
    assert models_of(config, USUAL) == used


def test_a_model_that_ends_is_told_once_with_what_replaces_it():
    watch = ModelWatch(TABLE)
    watch.use(["tts-1", "gpt-realtime-2.1", "of-somebody-else"])
    (ending,) = watch.warnings(TODAY)
    assert ending.sentence == "tts-1 ends on 2027-01-06 (46 days): use gpt-realtime-2.1-mini"
    assert watch.warnings(TODAY) == []
    watch.use(["gpt-5"])
    assert [each.model for each in watch.warnings(TODAY)] == ["gpt-5"]


def test_nobody_is_told_too_early_and_an_ended_one_is_told_as_such():
    watch = ModelWatch(Models({"m": Model(shutdown=date(2027, 1, 1))}))
    watch.use(["m"])
    assert watch.warnings(date(2026, 1, 1)) == []
    (ending,) = watch.warnings(date(2027, 1, 2))
    assert ending.sentence == "m was shut down on 2027-01-01"


def test_the_endpoints_word_counts_more_than_the_table_and_is_told_anew():
    watch = ModelWatch(TABLE)
    watch.use(["tts-1", "gpt-realtime-2.1"])
    assert [each.model for each in watch.warnings(TODAY)] == ["tts-1"]
    watch.told({"tts-1": date(2026, 12, 24), "gpt-realtime-2.1": date(2027, 3, 1)})
    assert [(each.model, each.ends) for each in watch.warnings(TODAY)] == [
        ("gpt-realtime-2.1", date(2027, 3, 1)),
        ("tts-1", date(2026, 12, 24)),
    ]
    assert watch.timestamps()["tts-1"] == datetime(2026, 12, 24, tzinfo=UTC).timestamp()


def test_agents_cannot_make_metrics_without_bounds():
    watch = ModelWatch(Models())
    watch.told({f"m{number}": TODAY for number in range(1000)})
    watch.use(f"m{number}" for number in range(1000))
    assert len(watch.timestamps()) == MOST_MODELS


@pytest.mark.parametrize(
    ("entry", "ends"),
    [
        ({"id": "m", "shutdown_date": "2027-01-06"}, date(2027, 1, 6)),
        ({"id": "m", "shutdown_date": "2027-01-06T00:00:00Z"}, date(2027, 1, 6)),
        ({"id": "m", "shutdown_date": 1799193600}, date(2027, 1, 6)),
        ({"id": "m", "shutdown_date": None}, None),
        ({"id": "m", "shutdown_date": "soon"}, None),
        ({"id": "m", "shutdown_date": 1e300}, None),
        ({"id": "m", "shutdown_date": True}, None),
        ({"shutdown_date": "2027-01-06"}, None),
        ("m", None),
    ],
)
def test_a_listing_is_read_leniently(entry, ends):
    assert shutdown_dates({"data": [entry]}) == ({"m": ends} if ends else {})


@pytest.mark.parametrize("listing", [None, [], {}, {"data": None}, {"data": "x"}])
def test_what_is_no_listing_says_nothing(listing):
    assert shutdown_dates(listing) == {}


# -- the shell ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def endpoint():
    answers = {"/v1/models": web.json_response({"data": [{"id": "gpt-live-1", "shutdown_date": "2026-12-01"}]})}
    seen = []

    async def answer(request):
        seen.append(request.headers.get("Authorization"))
        return answers.get(request.path) or web.Response(status=404)

    async with serving(app_of(web.get("/{path:.*}", answer))) as url:
        yield url, answers, seen


async def test_the_endpoint_is_asked_for_the_dates_of_its_models(endpoint):
    base, _, seen = endpoint
    watch = ModelWatch(TABLE)
    watch.use(["gpt-live-1"])
    await ask(watch, f"{base}/v1/".replace("http", "ws"), "sk-1", None)
    assert seen == ["Bearer sk-1"]
    assert watch.ending("gpt-live-1", TODAY).days == 10


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, b"\xff", b"3"])
async def test_an_endpoint_that_lists_nothing_is_no_trouble(endpoint, body):
    base, answers, _ = endpoint
    answers["/v1/models"] = web.Response(body=body)
    watch = ModelWatch(TABLE)
    with capture_logs() as logs:
        await ask(watch, f"{base}/v1", "", None)
        await ask(watch, f"{base}/elsewhere", "", None)
        await ask(watch, "http://127.0.0.1:9/v1", "", None)
    assert {entry["log_level"] for entry in logs} <= {"info", "debug"}
    assert watch.ending("gpt-live-1", TODAY) is None


async def test_openai_is_not_asked_without_a_key():
    with capture_logs() as logs:
        await ask(ModelWatch(TABLE), "https://api.openai.com/v1", "", None)
    assert logs == []


def test_operators_are_warned_of_the_models_of_agents_whose_calls_come():
    plans = WatchedPlans(plan_scripted, Models({"old": Model(shutdown=date(2026, 12, 1))}), USUAL)
    old = agent(model="old", budget=Budget(per_call_usd=1)).model_copy(update={"backend_options": {"mode": "echo"}})
    offer = Offer(call="c", org="default", gw="g", epoch=1, caller="+491", callee="+492", agent=old)
    offer = offer.model_copy(update={"agent": old})
    with capture_logs() as logs:
        for _ in range(2):
            plans(offer)
    assert [entry["model"] for entry in logs if "shut down" in entry["event"]] == ["old"]
    assert [entry["model"] for entry in logs if "budget" in entry["event"]] == ["gpt-transcribe", "old"]
    assert plans.watch.timestamps().keys() == {"old"}


def test_when_the_models_in_use_end_is_a_metric():
    plans = WatchedPlans(plan_scripted, TABLE, USUAL)
    plans.watch.use(["tts-1"])
    exporting.export_models(plans, ())
    ends_at = plans.watch.timestamps()["tts-1"]
    shown = re.search(
        r'^callbus_model_shutdown_timestamp_seconds\{model="tts-1"\} (.+)$', generate_latest().decode(), re.MULTILINE
    )
    assert shown is not None
    assert float(shown[1]) == ends_at
