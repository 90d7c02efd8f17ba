"""`python -m tests.live`: what callbus assumes of the real API, tried with your keys, for a few cents.

It says what it will cost before it starts, asks, and stops before `--max-usd`. Exit code 1 when an assumption does not
hold. The endpoint and the keys are the worker's: OPENAI_API_KEY, OPENAI_BASE_URL and others, from environment or .env.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import aiohttp

from services.ai_session.costs import load
from services.ai_session.model_watch import SPEECH_MODEL
from services.ai_session.settings import Settings
from tests.live.checks import CHECKS
from tests.live.lab import Check, Lab, Purse, Verdict, carried_out

SIGNS = {"holds": "✔", "does not hold": "✘", "not available": "–"}


def main(arguments: list[str] | None = None) -> int:
    """Parse, ask, check; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.live", description=__doc__, add_help=True)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--max-usd", type=float, default=0.50, help="stop before this is spent (0.50)")
    parser.add_argument("--only", action="append", metavar="CHECK", help="this check; may be repeated")
    parser.add_argument("--list", action="store_true", help="name the checks and their costs, and end")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.only or ()) - {check.name for check in CHECKS}):
        parser.error(f"no such check: {', '.join(unknown)}; --list names them")
    checks = [check for check in CHECKS if not given.only or check.name in given.only]
    settings = Settings()
    if not given.list and settings.openai_api_key is None and "api.openai.com" in settings.openai_base_url:
        print("there is no OPENAI_API_KEY: set it, or OPENAI_BASE_URL to an endpoint that needs none", file=sys.stderr)
        return 2
    return asyncio.run(_run(checks, settings, given))


async def _run(checks: list[Check], settings: Settings, given: argparse.Namespace) -> int:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
        lab = lab_of(settings, http)
        total = announce(checks, lab)
        if given.list:
            return 0
        if total > given.max_usd:
            print(f"that is more than --max-usd {given.max_usd:g}: name fewer checks with --only, or raise it")
            return 2
        if not given.yes and not await _agreed():
            print("nothing was tried")
            return 2
        verdicts = await try_all(checks, lab, given.max_usd)
    unknown = f", and what {', '.join(sorted(set(lab.purse.unknown)))} cost" if lab.purse.unknown else ""
    print(f"spent about {lab.purse.usd:.4f} USD{unknown}")
    return 1 if any(verdict.state == "does not hold" for verdict in verdicts.values()) else 0


def lab_of(settings: Settings, http: aiohttp.ClientSession) -> Lab:
    """As the worker would reach its models."""
    models = load(settings.models_file)
    key, eleven = settings.openai_api_key, settings.elevenlabs_api_key
    return Lab(
        base_url=settings.openai_base_url.rstrip("/"),
        api_key=key.get_secret_value() if key is not None else "none",
        http=http,
        purse=Purse(models),
        realtime=settings.openai_model,
        live=settings.live_model,
        chat=settings.chat_model,
        transcription=models.transcription,
        speech=SPEECH_MODEL,
        elevenlabs_url=settings.elevenlabs_base_url.rstrip("/"),
        elevenlabs_key=eleven.get_secret_value() if eleven is not None else "",
        elevenlabs_voice=settings.elevenlabs_voice_id or "",
        elevenlabs_model=settings.elevenlabs_model,
    )


def announce(checks: list[Check], lab: Lab) -> float:
    """Say what will be tried and what it costs at most; the sum of what is known."""
    print(f"endpoint {lab.base_url}")
    total, unknown = 0.0, []
    for check in checks:
        cost = check.estimate(lab)
        total += cost or 0.0
        if cost is None:
            unknown.append(check.name)
        print(f"  {check.name:14} {'unknown' if cost is None else f'{cost:.4f}':>8} USD  {check.assumption}")
    print(f"at most about {total:.2f} USD" + (f", and {', '.join(unknown)} (price unknown, tiny)" if unknown else ""))
    return total


async def try_all(checks: list[Check], lab: Lab, max_usd: float) -> dict[str, Verdict]:
    """One after the other, a line each; those that the purse cannot pay any more are left out."""
    verdicts: dict[str, Verdict] = {}
    for check in checks:
        if lab.purse.usd + (check.estimate(lab) or 0.0) > max_usd:
            verdict = Verdict("not available", f"--max-usd is reached: {lab.purse.usd:.4f} USD are spent")
        else:
            verdict = await carried_out(check, lab)
        verdicts[check.name] = verdict
        print(f"{SIGNS[verdict.state]} {verdict.state:13} {check.name:14} {verdict.detail}", flush=True)
    return verdicts


async def _agreed() -> bool:
    try:
        answer = await asyncio.to_thread(input, "go on? [y/N] ")
    except EOFError:  # nobody is there: --yes is for that
        return False
    return answer.strip().lower() in ("y", "yes", "j", "ja")


if __name__ == "__main__":
    sys.exit(main())
