from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from libs.object_store import store as store_module
from libs.object_store.settings import ObjectStoreSettings
from libs.object_store.store import ObjectNotFoundError, ObjectStore, ObjectStoreError, S3Options
from tests.unit.object_store.s3_server import S3Server, s3_server


@pytest_asyncio.fixture
async def s3() -> AsyncIterator[S3Server]:
    async with s3_server() as server:
        yield server


def s3_options(server: S3Server) -> S3Options:
    return S3Options("key", "secret", endpoint_url=server.url)


@pytest_asyncio.fixture(params=["directory", "file", "memory", "s3"])
async def store(request, tmp_path, s3) -> AsyncIterator[ObjectStore]:
    match request.param:
        case "directory":
            yield ObjectStore.open(str(tmp_path / "objects"))
        case "file":
            yield ObjectStore.open((tmp_path / "an öbject store").as_uri())
        case "memory":
            yield ObjectStore.open("memory://")
        case _:
            yield ObjectStore.open("s3://bucket/pre/fix", s3_options(s3))


async def listed(store: ObjectStore, prefix: str = "") -> list[tuple[str, int]]:
    return sorted([(info.path, info.size_bytes) async for info in store.list(prefix)])


async def write_and_fail(store: ObjectStore, written_bytes: int) -> None:
    async with store.writer("rec/half") as writer:
        for _ in range(written_bytes // (1 << 20)):
            await writer.write(bytes(1 << 20))
        await writer.write(bytes(written_bytes % (1 << 20)))
        raise ZeroDivisionError


async def test_what_was_put_is_read_again(store):
    await store.put("speech/ab/one.wav", b"RIFF", "audio/wav")
    assert await store.get("speech/ab/one.wav") == b"RIFF"
    info = await store.head("speech/ab/one.wav")
    assert (info.path, info.size_bytes) == ("speech/ab/one.wav", 4)
    assert info.modified_at > 1_700_000_000


async def test_a_part_is_read_with_the_size_of_the_whole(store):
    await store.put("rec/one.wav", bytes(range(100)))
    assert await store.get_range("rec/one.wav", 0, 30) == (bytes(range(30)), 100)
    assert await store.get_range("rec/one.wav", 90, 30) == (bytes(range(90, 100)), 100)
    with pytest.raises(ObjectStoreError):
        await store.get_range("rec/one.wav", 100, 30)
    with pytest.raises(ObjectNotFoundError):
        await store.get_range("rec/none.wav", 0, 30)


async def test_putting_again_replaces(store):
    await store.put("a", b"1")
    await store.put("a", b"22")
    assert await store.get("a") == b"22"


async def test_what_is_not_there_is_told_apart_from_a_failure(store):
    assert not await store.exists("nothing")
    with pytest.raises(ObjectNotFoundError, match="no such object"):
        await store.get("nothing")
    with pytest.raises(ObjectNotFoundError):
        await store.head("nothing")


async def test_deleting_is_the_same_whether_or_not_it_was_there(store):
    await store.put("a/b", b"1")
    await store.delete("a/b")
    await store.delete("a/b")
    assert not await store.exists("a/b")


async def test_a_list_takes_what_is_below_a_prefix(store):
    for path in ("rec/1", "rec/2", "speech/1"):
        await store.put(path, b"123")
    assert await listed(store, "rec") == [("rec/1", 3), ("rec/2", 3)]
    assert len(await listed(store)) == 3
    assert await listed(store, "nothing") == []


async def test_a_long_object_is_written_in_pieces_and_appears_at_the_end(store):
    block = bytes(range(256)) * 4096  # 1 MiB
    async with store.writer("rec/long.wav", "audio/wav") as writer:
        for _ in range(12):
            await writer.write(block)
        assert not await store.exists("rec/long.wav")
    assert await store.get("rec/long.wav") == block * 12
    assert writer.written_bytes == 12 << 20


@pytest.mark.parametrize("written_bytes", [0, 10])
async def test_a_short_object_may_be_written_in_pieces_too(store, written_bytes):
    async with store.writer("short") as writer:
        await writer.write(bytes(written_bytes))
    assert await store.get("short") == bytes(written_bytes)


@pytest.mark.parametrize("written_bytes", [0, 10, 12 << 20])
async def test_an_object_whose_writer_fails_never_appears(store, written_bytes):
    with pytest.raises(ZeroDivisionError):
        await write_and_fail(store, written_bytes)
    assert await listed(store) == []


async def test_a_writer_that_is_cancelled_leaves_nothing(store):
    async def write() -> None:
        async with store.writer("rec/half") as writer:
            while True:
                await writer.write(bytes(100_000))

    task = asyncio.create_task(write())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await listed(store) == []


@pytest.mark.parametrize("path", ["", "/a", "a/", "../a", "a//b"])
async def test_a_path_that_leaves_the_store_is_refused(store, path):
    with pytest.raises(ObjectStoreError):
        await store.put(path, b"1")


async def test_nothing_is_left_of_an_abandoned_multipart_upload(s3):
    store = ObjectStore.open("s3://bucket", s3_options(s3))
    with pytest.raises(ZeroDivisionError):
        await write_and_fail(store, 8 << 20)
    assert s3.uploads == {}
    assert s3.objects == {}


async def test_s3_gets_the_type_and_parts_of_a_bounded_size(s3):
    store = ObjectStore.open("s3://bucket/callbus", s3_options(s3))
    await store.put("one.wav", b"1", "audio/wav")
    async with store.writer("two.wav", "audio/wav") as writer:
        for _ in range(12):
            await writer.write(bytes(1 << 20))
    assert s3.objects["bucket/callbus/one.wav"] == (b"1", "audio/wav")
    assert s3.objects["bucket/callbus/two.wav"] == (bytes(12 << 20), "audio/wav")
    assert s3.largest_part_bytes <= 6 << 20


@pytest.mark.parametrize("status", [403, 500])
async def test_a_server_that_refuses_is_told_in_one_sentence_without_the_secret(s3, monkeypatch, status):
    monkeypatch.setattr(store_module, "MAX_RETRIES", 0)
    store = ObjectStore.open("s3://bucket", s3_options(s3))
    s3.refuse = status
    with pytest.raises(ObjectStoreError, match=r"object store s3://bucket: 'a' was not stored: ") as caught:
        await store.put("a", b"1")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(ObjectStoreError) as listing:
        await listed(store)
    assert not isinstance(listing.value, ObjectNotFoundError)
    with pytest.raises(ObjectStoreError, match="was not stored"):
        await write_and_fail(store, 40 << 20)


def test_keys_in_the_url_are_refused_and_not_repeated():
    with pytest.raises(ObjectStoreError, match="AWS_ACCESS_KEY_ID") as caught:
        ObjectStore.open("s3://AKIA:geheim@bucket/speech")
    assert "geheim" not in str(caught.value)


async def test_a_directory_that_cannot_be_made_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ObjectStoreError, match="cannot be opened as a directory"):
        ObjectStore.open(str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("url", ["", "gs://bucket", "s3://", "file://host/dir", "https://example.org"])
def test_other_urls_are_refused_with_what_would_do(url):
    with pytest.raises(ObjectStoreError, match="use a directory"):
        ObjectStore.open(url)


def test_the_settings_take_the_usual_names(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    options = ObjectStoreSettings(_env_file=None).s3_options
    assert options == S3Options("key", "secret", None, None, "http://127.0.0.1:9000")
