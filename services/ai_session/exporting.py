"""Has the worker's metrics read from the parts that count; for the composition root."""

from __future__ import annotations

from services.ai_session import instruments
from services.ai_session.backends.pipeline_stages import Stages
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.backends.realtime_spares import SpareConnections
from services.ai_session.model_listing import WatchedPlans
from services.ai_session.voices.factory import Voices
from services.ai_session.worker import Worker


def export(worker: Worker, endpoint: Endpoint, stages: Stages, voices: Voices) -> None:
    """What calls, their tools, their models and their voices count."""
    _export_worker(worker)
    export_voices(voices)
    stages.times.observe = instruments.STAGE.observe
    instruments.LINKS.read_from(lambda: {k: n for k, n in endpoint.counters.items() if not k.startswith("lost_")})
    instruments.ERRORS.read_from(
        lambda: instruments.provider_errors(endpoint.counters, stages.counters, voices.counters)
    )


def export_models(plans: WatchedPlans, spares: SpareConnections) -> None:
    """The ends of models in use, and connections kept ready."""
    instruments.SHUTDOWN.read_from(plans.watch.timestamps)
    instruments.SPARES.read_from(lambda: len(spares))


def export_voices(voices: Voices) -> None:
    """How often speech was there already, and what was rendered ahead."""
    cache = voices.cache
    instruments.SPEECH.read_from(lambda: cache.counters)
    instruments.SPEECH_BYTES.read_from(lambda: cache.held_bytes)
    instruments.SPEECH_HITS.read_from(lambda: cache.hit_rate)
    wanted = instruments.VOICES.labels["event"].values
    instruments.VOICES.read_from(lambda: {kind: voices.counters[kind] for kind in wanted})


def _export_worker(worker: Worker) -> None:
    instruments.SESSIONS.read_from(worker.by_backend)
    instruments.CAPACITY.read_from(lambda: worker.claims.capacity)
    instruments.DRAINING.read_from(lambda: float(worker.claims.draining))
    instruments.CONNECTIONS.read_from(instruments.open_connections)
    instruments.SOCKETS.read_from(instruments.sockets_in_use)
    instruments.RING.read_from(worker.ring_frames)
    frames, offers = instruments.FRAME_KEYS, instruments.OFFER_KEYS
    instruments.FRAMES.read_from(lambda: {frames[k]: n for k, n in worker.counted().items() if k in frames})
    instruments.OFFERS.read_from(lambda: {offers[k]: n for k, n in worker.counters.items() if k in offers})
    instruments.EVENTS.read_from(
        lambda: {k: n for k, n in worker.counted().items() if k not in frames and k not in offers}
    )
    instruments.TOOL_LOOKUPS.read_from(lambda: worker.tools.counters)
    instruments.RATE_LIMIT.read_from(worker.limits.counted)
    instruments.SPENDING.read_from(lambda: worker.budgets.counters)
