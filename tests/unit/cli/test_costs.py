"""`callbus costs`: the estimates against numbers computed by hand, and what is shown of prices that are not known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.bus import connected
from cli.costs import spent_today
from cli.estimate import Assumptions, Estimate, estimates
from cli.main import app
from libs.contracts import subjects
from libs.contracts.config import OrgConfig
from libs.contracts.spending import DaySpending, spending_key
from libs.runtime.spending_copy import today
from libs.runtime.streams import bucket
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS
from tests.support.nats import nats_server

TABLE = load(BUILT_IN_MODELS)
# 30 s of each side in two turns: 15 s a turn are 150 audio tokens of the caller, 300 of the agent, 60 of text.
PLAIN = Assumptions(
    minutes=1,
    agent_share=0.5,
    caller_share=0.5,
    turns_per_minute=2,
    tools_per_minute=0,
    instruction_tokens=1000,
    cached_share=0.5,
)


def one(backend: str, model: str, voice: str = "", given: Assumptions = PLAIN) -> Estimate:
    (found,) = (e for e in estimates(TABLE, given) if (e.backend, e.model, e.voice) == (backend, model, voice))
    return found


def test_realtime_pays_for_what_is_said_and_for_the_conversation_again_with_each_answer() -> None:
    first = 1000 * 4 + 150 * 32 + 60 * 24 + 300 * 64
    second = 560 * 4 + 500 * 0.4 + 525 * 32 + 75 * 0.4 + 60 * 24 + 300 * 64
    found = one("realtime", "gpt-realtime-2.1")
    assert found.parts["model"] == pytest.approx((first + second) / 1e6)
    assert found.parts["transcription"] == pytest.approx(0.5 * 0.0045)
    assert found.per_call == pytest.approx(0.0716)


def test_the_pipelines_model_reads_and_writes_text() -> None:
    first = 1060 * 0.2 + 60 * 1.2
    second = 650 * 0.2 + 530 * 0.02 + 60 * 1.2
    found = one("pipeline", "gpt-5.6-luna", "local")
    assert found.parts == pytest.approx({"model": (first + second) / 1e6, "transcription": 0.00225, "speech": 0.0})


def test_a_realtime_model_that_reads_aloud_is_told_each_sentence() -> None:
    read = (120 + 8 * 60) * 0.6 + 120 * 2.4 + 600 * 20
    found = one("pipeline", "gpt-5.6-luna", "gpt-realtime-2.1-mini")
    assert found.parts["speech"] == pytest.approx(read / 1e6)


def test_live_costs_session_time_and_the_model_that_its_tools_are_delegated_to() -> None:
    assert one("live", "gpt-live-1").per_call == pytest.approx(0.05)
    given = Assumptions(minutes=2, tools_per_minute=1, instruction_tokens=1000)
    delegated = 2 * (1200 * 0.2 + 240 * 1.2) / 1e6
    assert one("live", "gpt-live-1", given=given).per_call == pytest.approx(0.1 + delegated)


def test_a_tool_call_is_one_more_response_and_its_result_stays_in_the_conversation() -> None:
    given = Assumptions(
        minutes=1, agent_share=0, caller_share=0, turns_per_minute=1, instruction_tokens=1000, cached_share=0
    )
    found = one("realtime", "gpt-realtime-2.1", given=given)
    assert found.parts["model"] == pytest.approx(((1000 * 4 + 40 * 24) + 1240 * 4) / 1e6)


def test_a_voice_without_a_price_leaves_the_whole_unknown() -> None:
    found = one("pipeline", "gpt-5.6-luna", "eleven_flash_v2_5")
    assert found.parts["speech"] is None
    assert found.per_call is None
    assert found.known > 0


def test_one_model_alone_can_be_compared() -> None:
    assert {e.backend for e in estimates(TABLE, PLAIN, "gpt-realtime-1.5")} == {"realtime"}
    assert {e.voice for e in estimates(TABLE, PLAIN, "tts-1")} == {"tts-1"}
    assert {e.model for e in estimates(TABLE, PLAIN, "gpt-6.1-terra")} == {"gpt-6.1-terra"}
    assert estimates(TABLE, PLAIN, "whisper-1") == []


# -- the command -----------------------------------------------------------------------------------------------


def test_the_table_names_what_is_not_known_and_where_prices_come_from() -> None:
    done = CliRunner().invoke(app, ["costs", "--calls", "1000", "--minutes", "3"])
    assert done.exit_code == 0
    rows = [line for line in done.output.splitlines() if line.startswith(("pipeline", "realtime", "live"))]
    assert len(rows) == 15
    assert all(("unknown" in row) == ("> " in row) for row in rows)
    assert "MODELS_FILE" in done.output
    assert "Not from the vendor's own page: the prices of gpt-5.6-luna" in done.output
    assert "gpt-4o-mini-tts (2027-01-06)" in done.output


def test_programs_get_null_for_what_is_not_known() -> None:
    done = CliRunner().invoke(app, ["costs", "--calls", "10", "--model", "gpt-4o-mini-tts", "--json"])
    (found,) = json.loads(done.output)["estimates"]
    assert found["usd"] is found["usd_per_call"] is found["parts_usd"]["speech"] is None
    assert found["known_usd_per_call"] > 0


def test_ones_own_table_of_prices_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        BUILT_IN_MODELS.read_text().replace('[models."eleven_v3"]', '[models."eleven_v3"]\ncharacters = 0.1')
    )
    monkeypatch.setenv("MODELS_FILE", str(file))
    arguments = ["costs", "--model", "eleven_v3", "--minutes", "1", "--talk-share", "0.5", "--calls", "1", "--json"]
    (found,) = json.loads(CliRunner().invoke(app, arguments).output)["estimates"]
    assert found["parts_usd"]["speech"] == pytest.approx(30 * 14 / 1000 * 0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "gpt-99"], "gpt-99 is not in the model table"),
        (["--model", "whisper-1"], "whisper-1 is a model for transcription alone"),
        (["--talk-share", "0.7", "--caller-share", "0.7"], "together at most 1"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["costs", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code != 0
    assert sentence in done.output + done.stderr


async def test_today_is_what_the_workers_wrote_beside_the_budgets() -> None:
    async with nats_server() as server, connected(server.url) as client:
        js = client.jetstream()
        spend = await bucket(js, subjects.KV_SPEND)
        for wk, usd in (("wk-1", 1.5), ("wk-2", 0.25)):
            await spend.put(spending_key("acme", today(), wk), DaySpending(usd=usd).to_json())
        config = await bucket(js, subjects.KV_CONFIG)
        for org in (OrgConfig(name="acme", max_usd_per_day=5), OrgConfig(name="idle", max_usd_per_day=1)):
            await config.put(org.key, org.to_json())
        await config.put("org.free", OrgConfig(name="free").to_json())
        found = await spent_today(client)
    assert [(each["org"], each["usd"], each["max_usd_per_day"]) for each in found] == [
        ("acme", 1.75, 5.0),
        ("idle", 0.0, 1.0),
    ]
