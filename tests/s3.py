"""An S3 endpoint over HTTP that can be told to refuse requests, as a loaded or a strict one does."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

Refuse = Callable[[str, str], tuple[str, str] | None]
"""What to answer to a kind of request for a path, as status and error code; None to let it through."""


class Gate:
    """Stands before the S3 server of the tests and shares its buckets."""

    def __init__(self) -> None:
        self.refuse: Refuse = lambda _kind, _path: None
        self.seen: Counter[tuple[str, str]] = Counter()
        """Requests by kind and path, refused ones included."""
        self._lock = threading.Lock()
        self._server = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        kind, path = kind_of(environ), environ["PATH_INFO"]
        with self._lock:
            answer = self.refuse(kind, path)
            self.seen[kind, path] += 1
        if answer is None:
            return self._server(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code = answer
        body = f"<Error><Code>{code}</Code><Message>This is {code}.</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if kind == "HEAD" else [body]

    def refuse_first(self, count: int) -> None:
        """Answer 503 to the first requests of each kind for each path."""
        self.seen.clear()
        self.refuse = lambda kind, path: (
            ("503 Slow Down", "SlowDown") if self.seen[kind, path] < count else None
        )

    def refuse_always(self, status: str, code: str, *kinds: str) -> None:
        """Give this answer to all requests, or to those of some kinds."""
        self.refuse = lambda kind, _path: (status, code) if not kinds or kind in kinds else None


def kind_of(environ: dict[str, Any]) -> str:
    """GET, PUT, HEAD … or the part that a request plays in a listing or in an upload of many parts."""
    query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    names = {"list-type": "LIST", "uploads": "BEGIN", "partNumber": "PART"}
    known = next((kind for name, kind in names.items() if name in query), None)
    if known is None and "uploadId" in query:
        return {"POST": "COMPLETE", "DELETE": "ABORT"}[environ["REQUEST_METHOD"]]
    return known or str(environ["REQUEST_METHOD"])


@contextlib.contextmanager
def gated_s3(patch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate that is the S3 of this process and of those it starts."""
    import s3fs

    gate = Gate()
    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield gate
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.shutdown()
        thread.join()
        server.server_close()
