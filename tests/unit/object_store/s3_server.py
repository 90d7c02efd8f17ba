"""As much of S3 as an object store asks for, over loopback; faults by `refuse`."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from aiohttp import web

from tests.support.http import app_of, serving

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass
class S3Server:
    """Buckets by name; every request is signed or refused."""

    url: str = ""
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)  # "bucket/key": content, type
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)
    refuse: int = 0  # an HTTP status
    largest_part_bytes: int = 0

    async def serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.refuse or not request.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 Credential=key/"):
            return _xml("<Error><Code>AccessDenied</Code><Message>no</Message></Error>", self.refuse or 403)
        key, query = request.match_info["path"], request.query
        match request.method:
            case "POST" if "uploads" in query:
                return self._begin(key, request)
            case "POST" if "uploadId" in query:
                return self._complete(key, query["uploadId"])
            case "POST" if "delete" in query:
                return _xml(f"<DeleteResult {NAMESPACE}></DeleteResult>")
            case "PUT" if "partNumber" in query:
                self.uploads[query["uploadId"]][int(query["partNumber"])] = body
                self.largest_part_bytes = max(self.largest_part_bytes, len(body))
                return web.Response(headers={"ETag": _etag(body)})
            case "PUT":
                self.objects[key] = (body, request.headers.get("Content-Type", ""))
                return web.Response(headers={"ETag": _etag(body)})
            case "DELETE" if "uploadId" in query:
                del self.uploads[query["uploadId"]]
                self.aborted.append(key)
                return web.Response(status=204)
            case "DELETE":
                self.objects.pop(key, None)
                return web.Response(status=204)
            case "GET" if "list-type" in query:
                return self._list(key, query.get("prefix", ""))
            case _:
                return self._read(key, request.http_range)

    def _begin(self, key: str, request: web.Request) -> web.Response:
        upload = f"up{len(self.uploads) + len(self.aborted)}"
        self.uploads[upload] = {}
        self.types[upload] = request.headers.get("Content-Type", "")
        return _xml(
            f"<InitiateMultipartUploadResult {NAMESPACE}><Bucket>b</Bucket><Key>{escape(key)}</Key>"
            f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        )

    def _complete(self, key: str, upload: str) -> web.Response:
        parts = self.uploads.pop(upload)
        self.objects[key] = (b"".join(parts[number] for number in sorted(parts)), self.types.pop(upload))
        return _xml(
            f"<CompleteMultipartUploadResult {NAMESPACE}><ETag>&quot;1&quot;</ETag></CompleteMultipartUploadResult>"
        )

    def _list(self, bucket: str, prefix: str) -> web.Response:
        found = []
        for name, (content, _) in sorted(self.objects.items()):
            key = name.removeprefix(bucket.rstrip("/") + "/")
            if key.startswith(prefix):
                found.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-21T10:00:00.000Z</LastModified>"
                    f"<ETag>{_etag(content)}</ETag><Size>{len(content)}</Size></Contents>"
                )
        return _xml(
            f"<ListBucketResult {NAMESPACE}><IsTruncated>false</IsTruncated>{''.join(found)}</ListBucketResult>"
        )

    def _read(self, key: str, wanted: slice) -> web.Response:
        if key not in self.objects:
            return _xml("<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>", 404)
        content, content_type = self.objects[key]
        headers = {
            "ETag": _etag(content),
            "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
            "Content-Type": content_type or "application/octet-stream",
        }
        if wanted == slice(None, None, 1):
            return web.Response(body=content, headers=headers)
        start, stop = wanted.start or 0, min(wanted.stop or len(content), len(content))
        if start >= len(content):
            return _xml("<Error><Code>InvalidRange</Code><Message>not satisfiable</Message></Error>", 416)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return web.Response(status=206, body=content[start:stop], headers=headers)


@asynccontextmanager
async def s3_server() -> AsyncIterator[S3Server]:
    server = S3Server()
    app = app_of(web.route("*", "/{path:.*}", server.serve), client_max_size=64 << 20)
    async with serving(app, shutdown_timeout=0.1) as server.url:
        yield server


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _xml(text: str, status: int = 200) -> web.Response:
    return web.Response(text=f'<?xml version="1.0" encoding="UTF-8"?>{text}', status=status, content_type="text/xml")
