"""Serves the reports below a folder to browsers on this machine, and nothing else of it.

A browser does not follow a link from Prefect's pages to a file on the disk. A report may quote rows
and replies, so a request for another host's name is refused: a page from elsewhere could otherwise
point its own name to this machine and read it.
"""

import socket
import time
from functools import partial
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

HOST, PORT = "127.0.0.1", 4201
NAMES = (HOST, "localhost")


class ReportHandler(SimpleHTTPRequestHandler):
    """Answers with a page in a folder called `reports`, and with a list of them."""

    def do_GET(self) -> None:
        """Serve a report."""
        if (self.headers.get("Host") or "").partition(":")[0] not in NAMES:
            self.send_error(403, "not a name of this machine")
        elif (page := self._page()) is not None:
            self._send(page.read_bytes())
        elif urlsplit(self.path).path == "/":
            self._send(_index(Path(self.directory)).encode())
        else:
            self.send_error(404, "no report")

    def do_HEAD(self) -> None:
        """Not offered."""
        self.send_error(405)

    def _page(self) -> Path | None:
        root = Path(self.directory).resolve()
        page = (root / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        ours = page.is_relative_to(root) and page.parent.name == "reports"
        return page if ours and page.suffix == ".html" and page.is_file() else None

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def _index(folder: Path) -> str:
    found = sorted(page.relative_to(folder).as_posix() for page in folder.glob("*/reports/*.html"))
    lines = "".join(f'<li><a href="/{quote(page)}">{escape(page)}</a>' for page in found)
    return f"<!doctype html><title>Reports</title><h1>Reports</h1><ul>{lines or 'none yet'}</ul>"


def serve(folder: Path, port: int) -> None:
    """Serve the reports below a folder until the process ends.

    Raises:
        OSError: the port is taken.
    """
    handler = partial(ReportHandler, directory=str(folder))
    with ThreadingHTTPServer((HOST, port), handler) as server:
        server.serve_forever()


def taken(port: int) -> bool:
    """Whether something accepts connections at a port."""
    with socket.socket() as connection:
        return connection.connect_ex((HOST, port)) == 0


def wait_for(port: int, *, seconds: float) -> bool:
    """Whether something accepts connections at a port, within some seconds."""
    until = time.monotonic() + seconds
    while not taken(port):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
