"""Google Cloud Storage on 127.0.0.1, in memory: the part of its JSON API that gcsfs and TensorStore speak.

Objects have generations, preconditions hold, an object appears whole or not at all. Buckets are made beforehand; one
named `denied` answers 403, one named `readonly` to whoever writes.
"""

import base64
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


class Failed(Exception):
    """An HTTP status other than 200."""


class Store:
    """`buckets`: bucket -> name -> (content, generation)."""

    def __init__(self, *buckets: str):
        self.buckets: dict[str, dict[str, tuple[bytes, int]]] = {name: {} for name in buckets}
        self.uploads: dict[str, tuple[str, str, dict[str, str], bytes]] = {}
        self.lock, self.clock = threading.RLock(), 0

    def bucket(self, name: str) -> dict[str, tuple[bytes, int]]:
        if name == "denied":
            raise Failed(403)
        if name not in self.buckets:
            raise Failed(404)
        return self.buckets[name]

    def get(self, bucket: str, name: str, query: dict[str, str]) -> tuple[bytes, int]:
        content, generation = self.bucket(bucket).get(name, (b"", 0))
        self.hold(generation, query)
        if not generation:
            raise Failed(404)
        return content, generation

    def hold(self, generation: int, query: dict[str, str]) -> None:
        if int(query.get("ifGenerationMatch", generation)) != generation:
            raise Failed(412)
        if int(query.get("ifGenerationNotMatch", -1)) == generation:
            raise Failed(304)

    def put(self, bucket: str, name: str, content: bytes, query: dict[str, str]) -> dict[str, Any]:
        objects = self.bucket(bucket)
        self.hold(objects.get(name, (b"", 0))[1], query)
        self.clock += 1
        objects[name] = (content, self.clock)
        return self.described(bucket, name)

    def described(self, bucket: str, name: str) -> dict[str, Any]:
        content, generation = self.bucket(bucket)[name]
        time = "2026-01-01T00:00:00.000Z"
        facts = {"name": name, "bucket": bucket, "size": str(len(content)), "generation": str(generation)}
        return facts | {"kind": "storage#object", "metageneration": "1", "timeCreated": time, "updated": time}

    def list(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        """In pages, as Google does: prefix, delimiter, startOffset, endOffset, maxResults."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset", "")
        found: dict[str, bool] = {}  # item, or folder: whether it is an item
        for name in sorted(self.bucket(bucket)):
            if name.startswith(prefix) and name >= start and (not end or name < end):
                head, mark, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name[len(prefix) :], "", "")
                found[prefix + head + mark] = not mark
        after = base64.b64decode(query.get("pageToken", "")).decode()
        names = [name for name in found if name > after]
        page = names[: int(query.get("maxResults", 1000))]
        answer: dict[str, Any] = {"kind": "storage#objects"}
        answer["items"] = [self.described(bucket, name) for name in page if found[name]]
        answer["prefixes"] = [name for name in page if not found[name]]
        if len(page) < len(names):
            answer["nextPageToken"] = base64.b64encode(page[-1].encode()).decode()
        return answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # else each answer waits 40 ms for the acknowledgement of its head
    store: Store

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        with self.store.lock:
            try:
                status, content, *headers = self.answer(self.command, url.path, query, body)
            except Failed as error:
                status, content, headers = error.args[0], {"error": {"code": error.args[0], "message": "refused"}}, []
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers[0] if headers else {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(0 if status in (204, 304) else len(data)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(data)

    do_GET = do_POST = do_DELETE = handle_one

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> Answer:
        found = re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)/o(?:/([^/]+)(?:/moveTo/o/([^/]+))?)?", path)
        if not found:
            raise Failed(404)
        kind, bucket, name, new = (unquote(part or "") for part in found.groups())
        objects = self.store.bucket(bucket)
        if bucket == "readonly" and method != "GET":
            raise Failed(403)
        if kind == "/upload":
            return self.upload(bucket, query, body)
        if method == "POST" and new:
            answer = self.store.put(bucket, new, self.store.get(bucket, name, {})[0], query)
            del objects[name]
            return 200, answer
        if method == "DELETE":
            self.store.get(bucket, name, query)
            del objects[name]
            return 204, b""
        if method != "GET":
            raise Failed(400)
        if not name:
            return 200, self.store.list(bucket, query)
        content, generation = self.store.get(bucket, name, query)
        return self.media(content, generation) if "alt" in query else (200, self.store.described(bucket, name))

    def media(self, content: bytes, generation: int) -> Answer:
        headers = {"x-goog-generation": str(generation), "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, content, headers
        size = len(content)
        first = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
        last = min(int(asked[2] or size - 1), size - 1) if asked[1] else size - 1
        if first >= size:
            raise Failed(416)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return 206, content[first : last + 1], headers

    def upload(self, bucket: str, query: dict[str, str], body: bytes) -> Answer:
        if "upload_id" in query:
            return self.part(query["upload_id"], body)
        kind, name = query.get("uploadType"), query.get("name", "")
        if kind == "media":
            return 200, self.store.put(bucket, name, body, query)
        if kind == "multipart":
            mark = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert mark
            _, meta, media, _ = body.split(b"--" + mark[1].encode())
            end = b"\r\n" if meta.startswith(b"\r\n") else b"\n"
            facts, content = (part.split(2 * end, 1)[1].removesuffix(end) for part in (meta, media))
            return 200, self.store.put(bucket, json.loads(facts).get("name", name), content, query)
        if kind == "resumable":
            name = (json.loads(body) if body else {}).get("name", name)
            key = str(len(self.store.uploads))
            self.store.uploads[key] = (bucket, name, query, b"")
            return 200, {}, {"Location": f"http://{self.headers['Host']}{urlsplit(self.path).path}?upload_id={key}"}
        raise Failed(400)

    def part(self, key: str, body: bytes) -> Answer:
        """The next bytes of a resumable upload; the last of them makes the object."""
        bucket, name, query, before = self.store.uploads[key]
        content = before + body
        said = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers.get("Content-Range", "bytes */0"))
        if not said or (said[1] and int(said[1]) != len(before)):
            raise Failed(400)
        self.store.uploads[key] = (bucket, name, query, content)
        if said[3] != "*" and int(said[3]) == len(content):
            return 200, self.store.put(bucket, name, content, query)
        return 308, b"", {"Range": f"bytes=0-{len(content) - 1}"} if content else {}

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave: gcsfs asks two ways at once and drops the slower; a process is killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(*buckets: str) -> Iterator[tuple[Store, dict[str, str]]]:
    """A store with empty buckets, and the environment of a process that is to take it for Google's."""
    store = Store(*buckets)
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"store": store}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    variables = dict.fromkeys(("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"), address)
    try:
        yield store, variables | {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "of-the-test"}
    finally:
        server.shutdown()
        server.server_close()
