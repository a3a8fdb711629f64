"""An S3 server on loopback (moto's), and a proxy before it that fails as networks do.

The proxy speaks plain HTTP/1.1 and passes requests on unchanged, unless a fault is planned.
"""

import contextlib
import http.client
import itertools
import subprocess
import sys
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple

import pytest

from alignment.store.remote import bucket as bucket_module
from tests.prefect_service import free_port

Kind = Literal["500", "403", "409", "lost", "500 after", "slow", "hang"]
"""500, 403, 409: refused, not passed on; lost, 500 after: passed on, and no answer, or a wrong one;
slow: passed on after 0.3 s; hang: never answered."""
NAMES = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_REGION": "us-east-1",
}
numbers = itertools.count()


class Fault(NamedTuple):
    """What happens to the next `times` requests of a method whose path contains `part`."""

    kind: Kind
    method: str
    part: str = ""
    times: int = 1


class Proxy:
    """Passes requests on to a port of this machine.

    Attributes:
        faults: those that are still to come; a test changes the list.
        drop_header: a header that is not passed on, in lower case.
        seen: method, path and outcome of every request.
    """

    def __init__(self, target: int) -> None:
        self.faults: list[Fault] = []
        self.drop_header = ""
        self.seen: list[tuple[str, str, str]] = []
        self._lock, self._target = threading.Lock(), target
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        kind = self._next_fault(request.command, request.path)
        self.seen.append((request.command, request.path, kind))
        if kind in ("500", "403", "409"):
            self._send(request, int(kind), b"", {})
            return
        if kind == "hang":
            time.sleep(60)
        if kind == "slow":
            time.sleep(0.3)
        status, content, headers = self._pass_on(request, body)
        if kind == "lost" or kind == "hang":
            request.close_connection = True
        elif kind == "500 after":
            self._send(request, 500, b"", {})
        else:
            self._send(request, status, content, headers)

    def _next_fault(self, method: str, path: str) -> str:
        with self._lock:
            for place, fault in enumerate(self.faults):
                if fault.method == method and fault.part in path:
                    left = fault._replace(times=fault.times - 1)
                    self.faults[place : place + 1] = [left] if left.times else []
                    return fault.kind
        return ""

    def _pass_on(self, request, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self._target, timeout=30)
        headers = {k: v for k, v in request.headers.items() if k.lower() != self.drop_header}
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())

    def _send(self, request, status: int, content: bytes, headers: dict[str, str]) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                request.send_header(name, value)
        length = headers.get("Content-Length") if request.command == "HEAD" else len(content)
        request.send_header("Content-Length", str(length or 0))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)


def put_bucket(port: int, name: str) -> None:
    """Make a bucket."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", f"/{name}", headers={"Host": f"127.0.0.1:{port}"})
    assert connection.getresponse().status == 200


@contextlib.contextmanager
def s3_server():
    """An S3 server on this machine: its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                put_bucket(port, "ready")
                break
            time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def s3_port():
    """The port of an S3 server."""
    with s3_server() as port:
        yield port


class Served(NamedTuple):
    """A new bucket: its URL as a store, the proxy on the way to it, and the environment for it."""

    url: str
    proxy: Proxy
    environment: dict[str, str]


@pytest.fixture
def bucket(s3_port, monkeypatch):
    """A new, empty bucket behind a proxy, with the environment to reach it and little patience."""
    name, proxy = f"store-{next(numbers)}", Proxy(s3_port)
    put_bucket(s3_port, name)
    environment = NAMES | {"AWS_ENDPOINT_URL": proxy.url}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setitem(bucket_module.CLIENT, "read_timeout", "1s")
    monkeypatch.setitem(bucket_module.RETRIES, "max_retries", 2)
    backoff = bucket_module.RETRIES["backoff"]
    monkeypatch.setitem(backoff, "init_backoff", timedelta(milliseconds=10))
    monkeypatch.setattr(bucket_module, "PAUSES", (0.05, 0.1))
    yield Served(f"s3://{name}/team/runs", proxy, environment)
    proxy.close()
