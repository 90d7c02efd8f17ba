"""The recorder on a real bus, beside a leg of the test's own: what becomes of a spool or a store that fails."""

import asyncio
import base64
import shutil
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest
from tenacity import stop_after_attempt

from libs.audio.wav import read_wav
from libs.contracts import subjects
from libs.contracts.commands import CommandReply
from libs.contracts.frame import AudioFrame, Codec, pack
from libs.contracts.recording import RecordReply, RecordRequest
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.object_store.store import ObjectStore, ObjectStoreError
from libs.runtime.bus import Bus
from libs.runtime.streams import provision
from services.recorder import recorder as shell, recording as one
from services.recorder.recorder import Recorder
from services.recorder.spool import left_behind
from tests.support.nats import nats_server
from tests.support.waiting import until

CALL = "01CALL"
FRAME = b"\1\0" * 160


class Events(list):
    put = list.append


class FailingStore(ObjectStore):
    """A store that is away until `back`."""

    def __init__(self, directory):
        self._behind = ObjectStore.open(str(directory))
        self.url, self.back, self.asked = self._behind.url, asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def writer(self, path, content_type=""):
        self.asked.set()
        if not self.back.is_set():
            raise ObjectStoreError("the store is away")
        async with self._behind.writer(path, content_type) as writer:
            yield writer


class Leg:
    """Grants every lease, and sends frames to whoever has one."""

    def __init__(self, bus, stopping):
        self.stopping = stopping
        self._bus, self.leases, self._seq, self.is_there = bus, asyncio.Queue(), 0, True

    async def begin(self):
        await self._bus.control.subscribe(subjects.control("default", CALL, "leg"), cb=self._granted)
        await self._bus.subscribed()

    async def _granted(self, message):
        if message.reply and self.is_there:
            await message.respond(CommandReply(ok=True, details={"recording": True}).to_json())
            self.leases.put_nowait(message)

    async def ask(self, call=CALL):
        request = RecordRequest(call=call, org="default", gw="gw-1", rate_hz=8000, answered_at=datetime.now(UTC))
        answer = await self._bus.request(subjects.rpc("recorder", "record"), request.to_json(), 2)
        return RecordReply.model_validate_json(answer)

    async def read(self, **asked):
        query = RpcRequest(**asked).to_json()
        return RpcReply.model_validate_json(await self._bus.request(subjects.rpc("recorder", "read"), query, 2))

    async def speak(self, frames):
        for _ in range(frames):
            self._seq += 1
            subject = subjects.audio("default", "gw-1", "wk-1", CALL, "out")
            await self._bus.media.publish(subject, pack(AudioFrame(Codec.PCM16_8000, 0, 1, self._seq, 0, FRAME)))
        await self._bus.media.flush()

    async def end(self):
        await self._bus.control.publish(subjects.event("default", CALL, "call.ended"), b"{}")


@asynccontextmanager
async def recording(tmp_path, store, capacity=10):
    async with nats_server() as server:
        bus, ours = await Bus.connect(server.url, "rec-1"), await Bus.connect(server.url, "gw-1")
        await provision(bus.js)
        events, stopping, up = Events(), asyncio.Event(), asyncio.Event()
        recorder = Recorder(bus, events, store, tmp_path / "spool", capacity)
        task = asyncio.create_task(recorder.run(stopping, up.set))
        await up.wait()
        leg = Leg(ours, stopping)
        await leg.begin()
        try:
            yield recorder, leg, events, task
        finally:
            stopping.set()
            await asyncio.wait_for(task, 10)
            await bus.close()
            await ours.close()


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(shell, "LEFTOVERS_EVERY_S", 0.05)


async def test_a_spool_that_cannot_be_written_is_told_and_nothing_is_promised(tmp_path):
    (tmp_path / "spool").touch()
    async with recording(tmp_path, ObjectStore.open("memory://")) as (recorder, leg, _events, _):
        reply = await leg.ask()
        assert not reply.accepted
        assert "RECORDER_SPOOL" in reply.reason
        assert (recorder.active, recorder.counters["broken"]) == (0, 1)


async def test_a_spool_that_goes_away_during_a_call_ends_its_recording_and_no_other(tmp_path):
    async with recording(tmp_path, ObjectStore.open("memory://")) as (recorder, leg, events, task):
        assert (await leg.ask()).accepted
        await leg.leases.get()
        shutil.rmtree(tmp_path / "spool")
        (tmp_path / "spool").touch()
        await leg.speak(50)
        await until(lambda: recorder.active == 0)
        assert (recorder.counters["broken"], events, task.done()) == (1, [], False)


async def test_a_recording_ends_with_its_call_also_when_a_renewal_swallows_the_cancellation(tmp_path, monkeypatch):
    async with recording(tmp_path, ObjectStore.open("memory://")) as (recorder, leg, events, _):
        asked, renew = asyncio.Event(), Bus.request

        async def swallow(bus, subject, payload, timeout_s):  # as `asyncio.wait_for` may, up to Python 3.11
            if not subject.endswith("leg"):
                return await renew(bus, subject, payload, timeout_s)
            with suppress(asyncio.CancelledError):
                asked.set()
                await asyncio.sleep(5)
            return CommandReply(ok=True, details={"recording": True}).to_json()

        assert (await leg.ask()).accepted
        await leg.leases.get()
        monkeypatch.setattr(Bus, "request", swallow)
        await leg.speak(50)
        await asked.wait()
        await leg.end()
        await until(lambda: events)
        assert recorder.counters["stored"] == 1


async def test_a_recording_is_stored_once_when_the_store_comes_back_while_leftovers_are_looked_for(tmp_path, soon):
    store = FailingStore(tmp_path / "objects")
    async with recording(tmp_path, store) as (recorder, leg, events, task):
        assert (await leg.ask()).accepted
        await leg.leases.get()
        await leg.speak(50)
        await leg.leases.get()  # half a second later: all of it was heard
        await leg.end()
        await store.asked.wait()
        assert list(left_behind(tmp_path / "spool")) == []  # its own recorder is at it
        await asyncio.sleep(0.2)  # several looks for leftovers
        store.back.set()
        await until(lambda: events)
        await until(lambda: recorder.active == 0)
        [stored] = events
        assert stored.is_complete
        assert read_wav((tmp_path / "objects" / stored.key).read_bytes()).duration_ms >= 1000
        await until(lambda: not list((tmp_path / "spool").iterdir()))
        assert not task.done()


async def test_a_file_whose_label_cannot_be_read_is_told_once_and_stays(tmp_path, soon):
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "c.p.wav").write_bytes(bytes(44))
    (spool / "c.p.json").write_text("{")
    async with recording(tmp_path, ObjectStore.open(str(tmp_path / "objects"))) as (recorder, *_):
        await until(lambda: recorder.counters["not_stored"])
        await asyncio.sleep(0.2)  # several looks for leftovers
        assert recorder.counters["not_stored"] == 1
    assert (spool / "c.p.wav").exists()


async def test_a_recording_that_waited_long_for_the_store_lacks_nothing(tmp_path, soon, monkeypatch):
    monkeypatch.setattr(shell.Recorder._upload.retry, "stop", stop_after_attempt(1))
    store = FailingStore(tmp_path / "objects")
    async with recording(tmp_path, store) as (recorder, leg, events, _):
        assert (await leg.ask()).accepted
        await leg.leases.get()
        await leg.speak(50)
        await leg.leases.get()
        await leg.end()
        await until(lambda: recorder.counters["not_stored"])
        store.back.set()
        await until(lambda: events)
        [stored] = events
        assert stored.is_complete  # though it was found among what others left


async def test_a_recorder_that_is_asked_to_end_stores_what_it_has_and_takes_no_more(tmp_path):
    async with recording(tmp_path, ObjectStore.open(str(tmp_path / "objects"))) as (_, leg, events, task):
        assert (await leg.ask()).accepted
        await leg.leases.get()
        await leg.speak(50)
        await leg.leases.get()
        leg.stopping.set()
        await asyncio.wait_for(asyncio.shield(task), 5)
        [stored] = events
        assert read_wav((tmp_path / "objects" / stored.key).read_bytes()).duration_ms >= 1000


async def test_a_call_whose_gateway_is_gone_is_stored_without_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(one, "GIVE_UP_S", 0.3)
    monkeypatch.setattr(one, "LEG_TIMEOUT_S", 0.1)
    async with recording(tmp_path, ObjectStore.open("memory://")) as (_, leg, events, _):
        assert (await leg.ask()).accepted
        await leg.leases.get()
        await leg.speak(50)
        leg.is_there = False
        await until(lambda: events)
        [stored] = events
        assert stored.duration_ms >= 1000


async def test_more_calls_than_it_may_have_are_refused_with_what_to_do(tmp_path):
    async with recording(tmp_path, ObjectStore.open("memory://"), capacity=1) as (recorder, leg, _, _):
        assert (await leg.ask()).accepted
        assert (await leg.ask()).accepted  # the same one again
        refused = await leg.ask("01OTHER")
        assert (refused.accepted, "RECORDER_CAPACITY" in refused.reason) == (False, True)
        assert recorder.active == 1


async def test_a_recording_is_read_in_pieces_by_its_organisation_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "PIECE_BYTES", 4)
    store = ObjectStore.open("memory://")
    await store.put("recordings/default/x.wav", b"0123456789")
    await store.put("secrets/default/key", b"0123456789")
    async with recording(tmp_path, store) as (_, leg, _, _):
        key, offset, heard = "recordings/default/x.wav", 0, b""
        while offset is not None:
            answer = await leg.read(org="default", parameters={"key": key, "offset": offset})
            heard, offset = heard + base64.b64decode(answer.data["base64"]), answer.data["next"]
        assert heard == b"0123456789"
        assert not (await leg.read(org="other", parameters={"key": key})).ok
        assert not (await leg.read(parameters={"key": "secrets/default/key"})).ok
        assert not (await leg.read(org="default", parameters={"key": "recordings/default/../other/x.wav"})).ok
        assert not (await leg.read(parameters={})).ok
        assert "no such object" in (await leg.read(parameters={"key": "recordings/default/y.wav"})).error


async def test_what_was_heard_can_be_played_from_the_spool_within_a_second(tmp_path):
    async with recording(tmp_path, ObjectStore.open("memory://")) as (_, leg, _, _):
        assert (await leg.ask()).accepted
        await leg.leases.get()
        await leg.speak(50)
        async with asyncio.timeout(1):  # what a kill may cost
            await until(lambda: any(read_wav(f.read_bytes()).duration_ms >= 1000 for f in tmp_path.rglob("*.wav")))
