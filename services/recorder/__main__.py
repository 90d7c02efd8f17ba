"""Composition root of the recorder: `python -m services.recorder`."""

from __future__ import annotations

import sys

from libs.object_store.store import ObjectStore, ObjectStoreError
from libs.runtime.service import Service, run
from services.recorder import instruments
from services.recorder.recorder import Recorder
from services.recorder.settings import Settings


async def main(service: Service, settings: Settings) -> None:
    """Record until the process is asked to stop."""
    try:
        store = ObjectStore.open(settings.object_store_url, settings.s3_options)
    except ObjectStoreError as error:
        raise ConnectionError(str(error)) from None
    recorder = Recorder(service.bus, service.outbox, store, settings.recorder_spool, settings.recorder_capacity)
    instruments.export(lambda: recorder.counters, lambda: recorder.active)
    await recorder.run(service.stopping, lambda: service.is_up(lambda: not recorder.active))


if __name__ == "__main__":
    sys.exit(run("recorder", "rec", Settings, main))
