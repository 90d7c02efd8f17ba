"""``python -m services.rehearsal.render [scenario file or folder ...]``: record the clips of the scenarios.

Renders with espeak-ng every sentence that the built-in and the given scenarios can say (their static texts
and their ``clips``) and every caller's turn, the latter into ``clips/caller``. Clips of the same text are kept,
unless ``--all`` is given; clips that no scenario needs any more are removed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from services.rehearsal.scenario import Scenario, ScenarioError, load_scenarios
from services.rehearsal.server import BUILT_IN_SCENARIOS
from services.rehearsal.speech import CLIPS, espeak, read_clip, write_clip
from services.rehearsal.speech_text import clip_name, normalised, sentences

_AGENT_VARIANT, _CALLER_VARIANT = "m3", "f3"


def agent_sentences(scenarios: Iterable[Scenario]) -> dict[str, str]:
    """Sentence to espeak-ng voice, for all that the model may say."""
    return {
        sentence: f"{scenario.language}+{_AGENT_VARIANT}"
        for scenario in scenarios
        for text in scenario.static_texts()
        for sentence in sentences(text)
    }


def caller_turns(scenarios: Iterable[Scenario]) -> dict[str, tuple[str, str]]:
    """Clip name (``bestellung-1``) to text and voice, for all that a scripted caller says."""
    return {
        f"{scenario.name}-{number}": (normalised(turn.caller), f"{scenario.language}+{_CALLER_VARIANT}")
        for scenario in scenarios
        for number, turn in enumerate(scenario.turns, start=1)
    }


def render_agent(clips: Path, wanted: dict[str, str], *, again: bool) -> None:
    """Bring the agent's clips and their index (text to file) up to date."""
    clips.mkdir(parents=True, exist_ok=True)
    index = {text: clip_name(text) for text in sorted(wanted)}
    for text, file in index.items():
        if again or not (clips / file).exists():
            write_clip(clips / file, espeak(text, wanted[text]))
    _finish(clips, index, set(index.values()))


def render_callers(clips: Path, wanted: dict[str, tuple[str, str]], *, again: bool) -> None:
    """Bring the callers' clips and their index (name to text, file and length) up to date."""
    clips.mkdir(parents=True, exist_ok=True)
    index = {}
    for name, (text, voice) in sorted(wanted.items()):
        file = clip_name(text)
        if again or not (clips / file).exists():
            write_clip(clips / file, espeak(text, voice))
        index[name] = {"text": text, "file": file, "duration_ms": len(read_clip(clips / file)) // 16}
    _finish(clips, index, {clip_name(text) for text, _ in wanted.values()})


def _finish(clips: Path, index: object, files: set[str]) -> None:
    for path in clips.glob("*.wav"):
        if path.name not in files:
            path.unlink()
    (clips / "index.json").write_text(json.dumps(index, ensure_ascii=False, indent=1) + "\n", "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.rehearsal.render", description=__doc__)
    parser.add_argument("scenarios", nargs="*", type=Path, default=[Path("deploy/config/scenarios")])
    parser.add_argument("--all", action="store_true", help="render existing clips again, too")
    options = parser.parse_args()
    try:
        scenarios = [s for path in (BUILT_IN_SCENARIOS, *options.scenarios) for s in load_scenarios(path)]
    except ScenarioError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    render_agent(CLIPS, agent_sentences(scenarios), again=options.all)
    render_callers(CLIPS / "caller", caller_turns(scenarios), again=options.all)
    return 0


if __name__ == "__main__":
    sys.exit(main())
