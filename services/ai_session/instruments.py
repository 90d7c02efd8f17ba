"""The metrics of an AI worker: its calls, its models, what a turn takes and what it costs.

Most of them are fed by the events that sessions publish: what an operator sees in a call's record and what is counted
here cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from libs.contracts.events import AgentTurn, CallEvent, LatencyMeasured, SessionTrouble, ToolReturned, UsageReported
from libs.runtime.metrics import at_most, counter, gauge, histogram, matching, one_of

MOST_MODELS = 50
MOST_TOOLS = 200
MOST_CODES = 100

BACKEND = one_of("realtime", "live", "pipeline", "scripted")
MODEL = at_most(MOST_MODELS, "models that agents name")
PROVIDER_STAGE = one_of("session", "transcription", "chat", "speech")
PROVIDER = one_of("openai", "realtime", "elevenlabs", "local")
CODE = at_most(MOST_CODES, "codes of errors, ours and the provider's")

# Answers begin within a second where all is well; nobody waits for ten.
TURN_S = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
STAGE_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
TOOL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
LATENESS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 1.0, 5.0)

# -- the worker -------------------------------------------------------------------------------------------------------

SESSIONS = gauge("callbus_worker_sessions", "Calls that this worker serves", backend=BACKEND)
CAPACITY = gauge("callbus_worker_capacity", "Calls that this worker would serve")
DRAINING = gauge("callbus_worker_draining", "1 while the worker gives its calls away")
OFFERS = counter(
    "callbus_worker_offers_total",
    "Offers of calls, by our answer",
    answer=one_of("accepted", "refused", "malformed"),
)
TICKER = histogram(
    "callbus_worker_ticker_lateness_seconds", "How late the ticker of all sessions runs, ten times a second", LATENESS_S
)
FRAMES = counter(
    "callbus_worker_frames_total",
    "Frames of 20 ms, `up` from the caller and `down` to the caller",
    direction=one_of("up", "down"),
    event=one_of(
        "received",
        "dropped",
        "unknown_call",
        "other_epoch",
        "other_codec",
        "malformed",
        "unknown_codec",
        "bad_payload",
        "sent",
    ),
)
RING = gauge("callbus_worker_ring_frames", "Frames of the caller that wait for a model connection, of all calls")
EVENTS = counter(
    "callbus_worker_session_events_total",
    "What happened in sessions: reconnects, rotations, troubles, local speech and others",
    event=matching("[a-z][a-z_]*", "`sessions`, `reconnected`, `rotated`, `trouble`, `local`, `truncated` and others"),
)

# -- turns ----------------------------------------------------------------------------------------------------

TURN = histogram(
    "callbus_turn_latency_seconds",
    "From the decision that the caller's turn is over until the caller hears the first of the answer",
    TURN_S,
    backend=BACKEND,
)
TURN_STAGE = histogram(
    "callbus_turn_stage_seconds",
    "The parts of a turn's latency. `endpointing`: from the last sound of the caller to the decision that the turn is "
    "over, before the latency begins; `tools`: while tools ran; `model`: until the first audio of the answer, without "
    "the tools; `worker`: until its first frame; `bus`: there and back, twice the media link's last ping; `playout`: "
    "the rest, until the gateway has told that it plays",
    TURN_S,
    stage=one_of("endpointing", "tools", "model", "worker", "bus", "playout"),
    backend=BACKEND,
)
BARGE_INS = counter(
    "callbus_barge_ins_total",
    "Times that the caller spoke into the agent's speech: `confirmed` cut it off, after `false` ones it went on",
    verdict=one_of("confirmed", "false"),
    backend=BACKEND,
)

# -- tools ----------------------------------------------------------------------------------------------------

TOOL = histogram(
    "callbus_tool_call_seconds",
    "From a model's tool call to the answer, as the worker sees it",
    TOOL_S,
    tool=at_most(MOST_TOOLS, "tools that agents name"),
    outcome=one_of("ok", "error"),
)
TOOL_LOOKUPS = counter(
    "callbus_tool_lookups_total",
    "Times that the bus was asked for tools; tools of agents that nobody offers (`missing`)",
    outcome=one_of("discoveries", "discovery_failed", "missing"),
)

# -- models ----------------------------------------------------------------------------------------------------

CONNECTIONS = gauge("callbus_model_connections", "Open connections to models, by backend", backend=BACKEND)
SOCKETS = gauge(
    "callbus_provider_sockets",
    "Sockets to providers in use, by stage: one for each request under way; `session` are connections of speech models",
    stage=PROVIDER_STAGE,
    provider=PROVIDER,
)
SPARES = gauge("callbus_model_spare_connections", "Connections to models that are kept open for emergencies")
OPENING = histogram(
    "callbus_model_open_seconds",
    "Opening a connection to a model, its configuration included",
    STAGE_S,
    backend=BACKEND,
    outcome=one_of("opened", "refused", "unreachable", "failed", "given_up"),
)
STAGE = histogram(
    "callbus_provider_stage_seconds",
    "Stages of the pipeline: from the end of an utterance to its words (`transcription`), from a request to the first "
    "text of the answer (`first_token`), from a text to the first audio of it (`first_speech`)",
    STAGE_S,
    stage=one_of("transcription", "first_token", "first_speech"),
)
ERRORS = counter(
    "callbus_provider_errors_total",
    "What providers refused, broke off or did not do in time, by stage; `session` is a connection of a speech model",
    stage=PROVIDER_STAGE,
    provider=PROVIDER,
    code=CODE,
)
TROUBLES = counter(
    "callbus_session_troubles_total",
    "Troubles of calls with their models, as in the calls' records (session.trouble)",
    backend=BACKEND,
    code=CODE,
    fatal=one_of("true", "false"),
)
LINKS = counter(
    "callbus_model_events_total",
    "What else happened on connections to speech models: spares, events that are not known",
    event=matching("[a-z][a-z0-9_]*", "`spare_opened`, `spare_taken`, `events_unknown` and others"),
)
RATE_LIMIT = counter(
    "callbus_rate_limit_total",
    "The provider's rate limits, as calls met them",
    event=one_of("refused", "waited", "used_up"),
)
SHUTDOWN = gauge(
    "callbus_model_shutdown_timestamp_seconds", "When a model in use will be shut down by its provider", model=MODEL
)

# -- money ----------------------------------------------------------------------------------------------------

SOURCE = one_of("response", "transcription", "speech", "session")
TOKENS = counter(
    "callbus_tokens_total",
    "Tokens as providers count them; cached ones are among the `_in` ones",
    model=MODEL,
    source=SOURCE,
    kind=one_of("text_in", "text_cached", "text_out", "audio_in", "audio_cached", "audio_out"),
)
BILLED_SECONDS = counter("callbus_billed_seconds_total", "Time that providers bill by", model=MODEL, source=SOURCE)
COST = counter("callbus_cost_usd_total", "What providers charge by models.toml, in USD", model=MODEL, source=SOURCE)
SPENDING = counter(
    "callbus_spending_writes_total",
    "Sums of organisations' days that were written to the bus, or not",
    outcome=one_of("written", "write_failed"),
)

# -- speech ----------------------------------------------------------------------------------------------------

SPEECH = counter(
    "callbus_speech_cache_requests_total",
    "Texts to speak, by where their audio came from (`collapsed`: joined another's request), and troubles",
    outcome=one_of(
        "memory_hits",
        "store_hits",
        "collapsed",
        "misses",
        "abandoned",
        "failures",
        "not_verbatim",
        "stored",
        "store_failures",
        "store_slow",
    ),
)
SPEECH_BYTES = gauge("callbus_speech_cache_bytes", "Rendered speech in memory")
SPEECH_HITS = gauge("callbus_speech_cache_hit_ratio", "Share of texts that cost nothing at a provider, from 0 to 1")
VOICES = counter(
    "callbus_voice_events_total",
    "Requests to voices that were repeated; texts rendered ahead",
    event=one_of("retries", "ready", "not_ready"),
)

_UP = ("dropped", "unknown_call", "other_epoch", "other_codec", "malformed", "unknown_codec", "bad_payload")
FRAME_KEYS = {"up": ("up", "received"), "dn": ("down", "sent")} | {f"up_{name}": ("up", name) for name in _UP}
OFFER_KEYS = {"accepted": "accepted", "refused": "refused", "offer_malformed": "malformed"}


_open: set[tuple[int, str]] = set()  # connections to models, by identity
_requests: Counter[tuple[str, ...]] = Counter()  # under way, by stage and provider


def connection_opened(connection: object, backend: str) -> None:
    """A connection to a model is open."""
    _open.add((id(connection), backend))


def connection_closed(connection: object, backend: str) -> None:
    """It is not, or not any more."""
    _open.discard((id(connection), backend))


def open_connections() -> Counter[str]:
    """Connections to models, by backend."""
    return Counter(backend for _, backend in _open)


@contextmanager
def request_under_way(stage: str, provider: str) -> Iterator[None]:
    """Around a request to a provider, to the last byte of its answer: HTTP/1.1 gives each a socket of its own."""
    _requests[stage, provider] += 1
    try:
        yield
    finally:
        _requests[stage, provider] -= 1


def sockets_in_use() -> dict[tuple[str, ...], float]:
    """By stage and provider."""
    found: dict[tuple[str, ...], float] = dict(_requests)
    found.pop(("speech", "local"), None)  # a program, not a socket
    connections = open_connections()
    found["session", "openai"] = connections["realtime"] + connections["live"]
    return found


class SessionMeter:
    """One session's share of the metrics, from the events that it publishes. `ping_s`: of the media link."""

    def __init__(self, backend: str, ping_s: Callable[[], float | None]) -> None:
        self._backend = backend
        self._ping_s = ping_s

    def published(self, event: CallEvent) -> None:
        """An event is on its way to the stream."""
        match event:
            case LatencyMeasured():
                self._turn(event)
            case ToolReturned():
                TOOL.observe(event.took_ms / 1000, event.name, "ok" if event.ok else "error")
            case AgentTurn(interrupted=True):
                BARGE_INS.add("confirmed", self._backend)
            case UsageReported():
                _usage(event)
            case SessionTrouble():
                TROUBLES.add(self._backend, event.code, str(event.fatal).lower())
            case _:
                pass

    def went_on(self) -> None:
        """The caller's sound was no interruption: the agent goes on."""
        BARGE_INS.add("false", self._backend)

    def endpointed(self, seconds: float | None) -> None:
        """A turn of the caller was over so long before that was decided."""
        if seconds is not None:
            TURN_STAGE.observe(seconds, "endpointing", self._backend)

    def _turn(self, event: LatencyMeasured) -> None:
        delta, frame, heard = (
            event.stopped_to_first_delta_ms, event.stopped_to_first_frame_ms, event.stopped_to_heard_ms
        )  # fmt: skip
        if delta is None or frame is None or heard is None:
            return
        tools = min(event.tools_ms, delta)
        bus = min(2000 * (self._ping_s() or 0.0), heard - frame)
        TURN.observe(heard / 1000, self._backend)
        stages = {"model": delta - tools, "worker": frame - delta, "bus": bus, "playout": heard - frame - bus}
        if event.tools_ms:
            stages["tools"] = tools
        for stage, ms in stages.items():
            TURN_STAGE.observe(max(0.0, ms) / 1000, stage, self._backend)


def _usage(event: UsageReported) -> None:
    for kind, count in event.tokens.items():
        TOKENS.add(event.model, event.source, kind, by=count)
    if event.seconds:
        BILLED_SECONDS.add(event.model, event.source, by=event.seconds)
    if event.cost_usd:
        COST.add(event.model, event.source, by=event.cost_usd)


_OUTAGES = ("error_events", "configuration_refused", "lost_stalled", "lost_closed_1006")


def provider_errors(
    session: dict[str, int], pipeline: dict[str, int], voices: dict[str, int]
) -> dict[tuple[str, ...], float]:
    """What the parts counted by names of their own, as `callbus_provider_errors_total` has it. What an outage begins
    with is there at 0: no `increase` sees the first sample of a series, and it may be of many calls."""
    found: dict[tuple[str, ...], float] = {("session", "openai", name): 0 for name in _OUTAGES}
    for name, count in session.items():
        if name.startswith("lost_") or name in _OUTAGES:
            found["session", "openai", name] = count
    for stage in ("chat", "transcription"):
        found[stage, "openai", "failed"] = pipeline.get(f"{stage}_failed", 0)
    for name, count in voices.items():
        provider, _, code = name.partition("_")
        if provider in ("openai", "realtime", "elevenlabs", "local") and code:
            found["speech", provider, code] = count
    return found
