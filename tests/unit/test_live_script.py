"""`python -m tests.live` itself, against the rehearsal server: every check runs there, and its verdict is right."""

from __future__ import annotations

import aiohttp
import pytest

from services.ai_session.backends import realtime_config
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS, Settings
from services.rehearsal.elevenlabs import VOICES
from tests.live.__main__ import lab_of, main, try_all
from tests.live.checks import CHECKS
from tests.live.lab import Check, Lab, NotAvailableError, Purse, RefusedError, Verdict, carried_out
from tests.unit.rehearsal.http_client import serving

SLOW = {"idle-timeout"}  # counts real seconds
SCRIPTED = {"instructions"}  # what a script says obeys no instructions


@pytest.fixture
async def lab():
    async with (
        serving(default_scenario="bestellung", speed=50, first_byte_ms=0) as server,
        aiohttp.ClientSession() as http,
    ):
        settings = Settings(
            _env_file=None,
            openai_api_key="k",
            openai_base_url=server.base_url,
            elevenlabs_base_url=server.base_url.removesuffix("/v1"),
            elevenlabs_api_key="k",
            elevenlabs_voice_id=next(iter(VOICES)),
        )
        yield lab_of(settings, http)


async def test_all_assumptions_hold_against_the_rehearsal(lab, capsys):
    checks = [check for check in CHECKS if check.name not in SLOW | SCRIPTED]
    verdicts = await try_all(checks, lab, max_usd=1.0)
    assert {name: verdict for name, verdict in verdicts.items() if verdict.state != "holds"} == {}
    assert capsys.readouterr().out.count("✔ holds") == len(checks)
    assert 0.01 < lab.purse.usd < sum(check.estimate(lab) or 0.0 for check in CHECKS)


async def test_an_assumption_that_fails_is_told_as_such(lab):
    (check,) = (check for check in CHECKS if check.name == "instructions")
    assert (await carried_out(check, lab)).state == "does not hold"


async def test_a_field_that_the_endpoint_refuses_is_named_although_the_call_goes_on(lab, monkeypatch):
    (check,) = (check for check in CHECKS if check.name == "own-socket")
    assert (await carried_out(check, lab)).state == "holds"
    assert 0 < lab.purse.usd < check.estimate(lab)
    monkeypatch.setattr(realtime_config, "noise_reduction", lambda _: {"type": "near_field", "strength": "loud"})
    verdict = await carried_out(check, lab)
    assert verdict.state == "does not hold"
    assert "noise_reduction.strength" in verdict.detail


async def test_what_the_endpoint_does_not_serve_is_not_available(lab):
    elsewhere = Lab(**{**{name: getattr(lab, name) for name in Lab.__slots__}, "base_url": f"{lab.base_url}/nowhere"})
    checks = [check for check in CHECKS if check.name not in SLOW | {"elevenlabs"}]
    verdicts = await try_all(checks, elsewhere, max_usd=1.0)
    assert {verdict.state for verdict in verdicts.values()} == {"not available"}


async def test_no_check_begins_that_the_purse_cannot_pay(lab):
    tried = []

    async def run(_: Lab) -> Verdict:
        tried.append(1)
        lab.purse.pay(0.06, "m")
        return Verdict("holds", "")

    checks = [Check(f"c{number}", "", lambda _: 0.05, run) for number in range(3)]
    verdicts = await try_all(checks, lab, max_usd=0.15)
    assert len(tried) == 2
    assert verdicts["c2"].state == "not available"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NotAvailableError("x"), "not available"),
        (RefusedError("x"), "does not hold"),
        (AttributeError("a strange answer"), "does not hold"),
        (IndexError("a strange answer"), "does not hold"),
    ],
)
async def test_every_failure_is_a_verdict(lab, error, state):
    async def run(_: Lab) -> Verdict:
        raise error

    assert (await carried_out(Check("c", "", lambda _: 0.0, run), lab)).state == state


def test_without_a_key_nothing_is_tried(monkeypatch, capsys):
    monkeypatch.setattr("tests.live.__main__.Settings", lambda: Settings(_env_file=None, openai_api_key=None))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert main(["--yes"]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err
    assert main(["--list"]) == 0  # the costs can be read before there is one


def test_the_costs_are_told_before_anything_is_tried(monkeypatch, capsys):
    settings = Settings(_env_file=None, openai_api_key="k", openai_base_url="http://127.0.0.1:9/v1")
    monkeypatch.setattr("tests.live.__main__.Settings", lambda: settings)
    assert main(["--list"]) == 0
    told = capsys.readouterr().out
    assert "at most about 0.2" in told
    assert all(check.name in told for check in CHECKS)
    assert main(["--max-usd", "0.1"]) == 2
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main([]) == 2
    assert "nothing was tried" in capsys.readouterr().out

    def nobody(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    assert main([]) == 2


def test_every_price_that_an_estimate_needs_is_in_the_table_or_said_to_be_unknown():
    models = load(BUILT_IN_MODELS)
    lab = Lab("", "", None, Purse(models), "gpt-realtime-2.1", "gpt-live-1", "gpt-5.6-luna", "gpt-transcribe", "tts-1")
    assert [check.name for check in CHECKS if check.estimate(lab) is None] == ["speech"]
