"""One small interface to objects: whole ones by `put` and `get`, long ones by `writer`, over `obstore`.

An object appears when it is complete and not before, in every kind of store: a reader never sees half of one. Paths
are relative, with `/` between their parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, S3Store

from libs.object_store.instruments import REQUESTS
from libs.object_store.writer import AbandonedError, ObjectWriter

if TYPE_CHECKING:
    from obstore import Attributes, ObjectMeta

BINARY = "application/octet-stream"
PART_BYTES = 5 << 20  # the smallest part that S3 takes, but for the last
PARTS_AT_A_TIME = 2
CONNECT_TIMEOUT = timedelta(seconds=3)
REQUEST_TIMEOUT = timedelta(seconds=20)
RETRY_TIMEOUT = timedelta(seconds=15)
MAX_RETRIES = 2


class ObjectStoreError(Exception):
    """The store did not do what was asked; one sentence with what, where and, if it is known, what to do."""


class ObjectNotFoundError(ObjectStoreError):
    """There is no such object."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """What an s3:// store needs beside its URL. `endpoint_url` is for compatible servers (MinIO)."""

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    region: str | None = None
    endpoint_url: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object without its content. `modified_at` is in seconds since the epoch."""

    path: str
    size_bytes: int
    modified_at: float


class ObjectStore:
    """A directory, a bucket, or memory. All methods are safe to call concurrently."""

    def __init__(self, store: LocalStore | MemoryStore | S3Store, url: str) -> None:
        self._store = store
        self.url = url

    @classmethod
    def open(cls, url: str, s3: S3Options | None = None) -> ObjectStore:
        """Open the store at `url`: a directory (made if it is not there), `file:///DIR`, `s3://BUCKET/PREFIX`, or
        `memory://`, which is gone with the process. A bucket is not contacted before the first request.

        Raises:
            ObjectStoreError: the URL is none of these, or the directory cannot be made.
        """
        scheme, parts = _scheme(url), urlsplit(url)
        if scheme == "s3" and "@" in parts.netloc:  # not quoted: it is told in logs
            raise ObjectStoreError(
                "object store s3://...@...: keys stand in AWS_ACCESS_KEY_ID and its secret, not here"
            )
        match scheme:
            case "memory":
                return cls(MemoryStore(), url)
            case "s3" if parts.netloc:
                with _told(url, "cannot be opened", "open"):
                    return cls(_s3_store(parts.netloc, parts.path.strip("/"), s3 or S3Options()), url)
            case "file" | "" if not (scheme and parts.netloc) and url:
                directory = Path(unquote(parts.path) if scheme else url).absolute()
                with _told(url, "cannot be opened as a directory", "open"):
                    return cls(LocalStore(directory, mkdir=True), url)
        raise ObjectStoreError(f"object store {url!r}: use a directory, file:///DIR, s3://BUCKET/PREFIX or memory://")

    async def put(self, path: str, data: bytes, content_type: str = BINARY) -> None:
        """Store a whole object; one that is there is replaced.

        Raises:
            ObjectStoreError: it was not stored.
        """
        with _told(self.url, f"{path!r} was not stored", "put"):
            await obstore.put_async(self._store, _checked(path), data, attributes=self._attributes(content_type))

    async def get(self, path: str) -> bytes:
        """All of an object.

        Raises:
            ObjectNotFoundError: there is none.
            ObjectStoreError: it could not be read.
        """
        with _told(self.url, f"{path!r} was not read", "get"):
            result = await obstore.get_async(self._store, _checked(path))
            return bytes(await result.bytes_async())

    async def get_range(self, path: str, offset: int, length: int) -> tuple[bytes, int]:
        """Up to `length` bytes of an object from `offset` on, and the size of all of it; the rest is not read.

        Raises:
            ObjectNotFoundError: there is none.
            ObjectStoreError: it could not be read, or ends before `offset`.
        """
        with _told(self.url, f"{path!r} was not read from byte {offset} on", "get"):
            wanted = (offset, offset + length)
            result = await obstore.get_async(self._store, _checked(path), options={"range": wanted})
            return bytes(await result.bytes_async()), int(result.meta["size"])

    async def head(self, path: str) -> ObjectInfo:
        """What is known of an object without reading it.

        Raises:
            ObjectNotFoundError: there is none.
            ObjectStoreError: the store did not tell.
        """
        with _told(self.url, f"{path!r} was not looked up", "head"):
            return _info(await obstore.head_async(self._store, _checked(path)))

    async def exists(self, path: str) -> bool:
        """Whether there is such an object.

        Raises:
            ObjectStoreError: the store did not tell.
        """
        try:
            await self.head(path)
        except ObjectNotFoundError:
            return False
        return True

    async def delete(self, path: str) -> None:
        """Remove an object; none is fine.

        Raises:
            ObjectStoreError: it may still be there.
        """
        try:
            with _told(self.url, f"{path!r} was not deleted", "delete"):
                await obstore.delete_async(self._store, _checked(path))
        except ObjectNotFoundError:
            return

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """All objects below a prefix of whole path parts, in the store's order.

        Raises:
            ObjectStoreError: the list broke off.
        """
        with _told(self.url, f"{prefix or '/'!r} was not listed", "list"):
            async for batch in obstore.list(self._store, prefix.strip("/") or None):
                for meta in batch:
                    yield _info(meta)

    @asynccontextmanager
    async def writer(self, path: str, content_type: str = BINARY) -> AsyncIterator[ObjectWriter]:
        """Write a long object piece by piece; it appears when the block ends, and never if the block raises.

        Not more than about `PARTS_AT_A_TIME + 1` parts of `PART_BYTES` are held in memory: `write` waits for the
        store where it is slower.

        Raises:
            ObjectStoreError: from `write` or at the end; nothing was stored.
        """
        writer = ObjectWriter()
        upload = asyncio.create_task(self._upload(writer, _checked(path), content_type), name="object upload")
        try:
            yield writer
            await writer.end()
        except BaseException:  # whatever it was: half an object must not appear
            writer.abandon()
            raise
        finally:
            await upload
        if writer.failure is not None:
            raise writer.failure

    async def _upload(self, writer: ObjectWriter, path: str, content_type: str) -> None:
        """The far end of a writer; a failure is the writer's to tell, so that the block's own error is not lost."""
        try:
            with _told(self.url, f"{path!r} was not stored", "write"):
                await obstore.put_async(
                    self._store,
                    path,
                    writer.pieces(),
                    attributes=self._attributes(content_type),
                    use_multipart=True,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_A_TIME,
                )
        except AbandonedError:
            return
        except ObjectStoreError as error:
            writer.failed(error)
            await writer.discard()

    def _attributes(self, content_type: str) -> Attributes | None:
        """A directory keeps no types: there the name's ending tells."""
        return None if isinstance(self._store, LocalStore) else {"Content-Type": content_type}


def _scheme(url: str) -> str:
    return url.split("://", 1)[0] if "://" in url else ""


def _s3_store(bucket: str, prefix: str, s3: S3Options) -> S3Store:
    config: dict[str, Any] = {
        "access_key_id": s3.access_key_id,
        "secret_access_key": s3.secret_access_key,
        "session_token": s3.session_token,
        "region": s3.region or "us-east-1",
        "endpoint": s3.endpoint_url,
        "disable_bulk_delete": True,  # one object at a time is deleted here, and not every server knows the other
    }
    return S3Store(
        bucket,
        prefix=prefix or None,
        client_options={
            "allow_http": (s3.endpoint_url or "").startswith("http:"),
            "connect_timeout": CONNECT_TIMEOUT,
            "timeout": REQUEST_TIMEOUT,
        },
        retry_config={"max_retries": MAX_RETRIES, "retry_timeout": RETRY_TIMEOUT},
        **{name: value for name, value in config.items() if value is not None},
    )


def _checked(path: str) -> str:
    if not path or path.startswith("/") or path.endswith("/"):
        raise ObjectStoreError(f"{path!r} is no path of an object: use part/part/name")
    return path


def _info(meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["last_modified"].timestamp())


@contextmanager
def _told(url: str, what: str, operation: str) -> Iterator[None]:
    """Whatever the store's client raises, in one sentence, and counted. Its own texts go on with a dump."""
    outcome = "failed"
    try:
        yield
        outcome = "done"
    except FileNotFoundError:
        outcome = "absent"
        raise ObjectNotFoundError(f"object store {url}: {what}: there is no such object") from None
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        why = str(error).split("\n", 1)[0].strip().rstrip(".") or type(error).__name__
        raise ObjectStoreError(f"object store {url}: {what}: {why}") from None
    finally:
        REQUESTS.add(operation, outcome)
