"""The voices of a worker with their cache and store; for the composition root."""

from __future__ import annotations

from libs.object_store.store import ObjectStore, ObjectStoreError
from libs.runtime.log import get_logger
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.settings import Settings
from services.ai_session.voices.cache import SpeechCache
from services.ai_session.voices.factory import Voices

log = get_logger()


def open_voices(settings: Settings, endpoint: Endpoint) -> Voices:
    """The voices that the settings name. Without its store the worker speaks all the same, and renders more."""
    store: ObjectStore | None = None
    try:
        store = ObjectStore.open(settings.object_store_url, settings.s3_options)
    except ObjectStoreError as error:
        log.warning("rendered speech is kept in memory only: set OBJECT_STORE_URL", why=str(error))
    return Voices(settings, endpoint.models, SpeechCache(store, settings.speech_cache_bytes), endpoint)
