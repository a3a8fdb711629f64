"""A web server that answers only if the query of the URL is the right one."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class _NeedsKey(SimpleHTTPRequestHandler):
    def __init__(self, *arguments, query, **named):
        self.query = query
        super().__init__(*arguments, **named)

    def do_GET(self):
        self.path, _, query = self.path.partition("?")
        super().do_GET() if query == self.query else self.send_error(403)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder: Path, query: str) -> Iterator[str]:
    """The address of a server of a folder."""
    handler = partial(_NeedsKey, query=query, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
