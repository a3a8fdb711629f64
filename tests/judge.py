"""A judge on loopback that prefers the longer answer, and what else judges do."""

import contextlib
import hashlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Judge(BaseHTTPRequestHandler):
    """The server's `failures` (statuses) and `replies` come first, one per call."""

    def do_POST(self):
        server: Any = self.server
        text = self.rfile.read(int(self.headers["Content-Length"]))
        server.note(text)
        server.seen.append((json.loads(text), self.headers.get("Authorization")))
        if server.failures:
            self.send_response(server.failures.pop(0))
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"<html>")
            return
        asked = json.loads(text)["messages"][0]["content"]
        first = asked.split("[Answer A]\n")[1].split("\n\n[Answer B]")[0]
        second = asked.split("[Answer B]\n")[1].split("\n\nReply with")[0]
        reply = server.replies.pop(0) if server.replies else self.choice(first, second)
        body = {"choices": [{"message": {"content": reply}}], "usage": server.usage}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def choice(self, first, second):
        if "nonsense" in first + second:
            return "I cannot say"
        if "vain" in first + second:
            return "A"  # whatever comes first
        return "A" if len(first) > len(second) else "B" if len(second) > len(first) else "C"

    def log_message(self, *_):
        pass


def main(called: str) -> None:
    """Judge until killed; write the address to the standard output, and a line for each call."""
    with judging() as server, Path(called).open("ab", buffering=0) as calls:
        server.note = lambda body: calls.write(hashlib.sha256(body).hexdigest().encode() + b"\n")
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        signal.pause()


@contextlib.contextmanager
def judging() -> Iterator[Any]:
    """A server whose endpoint judges; `seen` has every call, and `url` its address."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    server.seen, server.failures, server.replies = [], [], []
    server.headers, server.usage = {}, {"total_tokens": 100}
    server.note = lambda _: None
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
