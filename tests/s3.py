"""An S3 endpoint over HTTP that refuses requests on demand, as an overloaded or a strict server does."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

Refuse = Callable[[str, str], tuple[str, str] | None]
"""From the kind and path of a request to the status and error code of the refusal; None to forward it.

The code may be followed by a message: `InvalidArgument: Unsupported header`.
"""

Environ = dict[str, Any]
"""A request, as WSGI describes it."""

POLL_S = 0.01
"""How often the server looks whether it shall stop; each test waits for that, with werkzeug's default half a second."""


class Gate:
    """A proxy in front of the S3 server of the tests; shares its buckets."""

    def __init__(self) -> None:
        self.refuse: Refuse = lambda _kind, _path: None
        self.ignored_headers: set[str] = set()
        """Headers that the server does not know, as WSGI spells them."""
        self.refused_headers: dict[str, tuple[str, str]] = {}
        """Headers that the server refuses, with status and error code as in `Refuse`."""
        self.added_headers: dict[str, str] = {}
        """Headers that every answer has."""
        self.delay: Callable[[str, str], None] = lambda _kind, _path: None
        """Called with the kind and path of each request before it is answered."""
        self.seen: Counter[tuple[str, str]] = Counter()
        """Number of requests by kind and path, including refused ones."""
        self._lock = threading.Lock()
        self._server = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        for header in self.ignored_headers:
            environ.pop(header, None)
        refused = [answer for header, answer in self.refused_headers.items() if header in environ]
        kind, path = kind_of(environ), environ["PATH_INFO"]
        self.delay(kind, path)
        with self._lock:
            answer = refused[0] if refused else self.refuse(kind, path)
            self.seen[kind, path] += 1
        if answer is None:
            return self._server(environ, partial(self._start, start_response))
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, (code, _, message) = answer[0], answer[1].partition(": ")
        text = message or f"This is {code}."
        body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if kind == "HEAD" else [body]

    def _start(
        self,
        start_response: Callable[..., Any],
        status: str,
        headers: list[tuple[str, str]],
        error: Any = None,
    ) -> Any:
        """Begin an answer of the server."""
        kept = [(name, value) for name, value in headers if name.lower() not in self.added_headers]
        return start_response(status, [*kept, *self.added_headers.items()], error)

    def refuse_first(self, count: int) -> None:
        """Answer 503 to the first `count` requests of each kind for each path."""
        self.seen.clear()
        self.refuse = lambda kind, path: (
            ("503 Slow Down", "SlowDown") if self.seen[kind, path] < count else None
        )

    def refuse_always(self, status: str, code: str, *kinds: str) -> None:
        """Refuse all requests, or those of some kinds."""
        self.refuse = lambda kind, _path: (status, code) if not kinds or kind in kinds else None


def kind_of(environ: Environ) -> str:
    """The HTTP method of a request, or its role in a listing or a multipart upload."""
    query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    names = {"list-type": "LIST", "uploads": "BEGIN", "partNumber": "PART"}
    known = next((kind for name, kind in names.items() if name in query), None)
    if known is None and "uploadId" in query:
        return {"POST": "COMPLETE", "DELETE": "ABORT"}[environ["REQUEST_METHOD"]]
    return known or str(environ["REQUEST_METHOD"])


@contextlib.contextmanager
def gated_s3(patch: pytest.MonkeyPatch, host: str = "127.0.0.1") -> Iterator[Gate]:
    """Make a gate the S3 endpoint of this process and its children; it listens on an address of this machine."""
    import s3fs

    gate = Gate()
    server = make_server(host, 0, gate, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
    thread.start()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{server.server_address[1]}")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield gate
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.shutdown()
        thread.join()
        server.server_close()
