"""`sft-dpo chat --compare A B --web PORT`: the comparison as a page, for a browser on this machine.

Plain forms, without scripts. The address has a secret part, as others may use this machine; and a
request for another host's name or from another page is refused, as any page in the browser could
send one.
"""

import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader

from alignment.errors import AlignmentError, UsageError
from flows.commands.compare_chat import Comparison
from flows.printing import say

HOST = "127.0.0.1"
LONGEST = 1_000_000
"""Most bytes of a form."""
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("commands")), autoescape=True
)


class ChatServer(ThreadingHTTPServer):
    """One session, shown to whoever knows the address; a browser may open several connections.

    Attributes:
        session: the comparison.
        path: the secret path of the page.
        step: number of the page as it is now.
        problem, draft: why the last message got no reply, and its text.
    """

    def __init__(self, session: Comparison, port: int) -> None:
        super().__init__((HOST, port), ChatHandler)
        self.session, self.path = session, f"/{secrets.token_urlsafe(16)}/"
        self.step, self.ended, self.lock = 0, False, Lock()
        self.problem = self.draft = ""

    @property
    def names(self) -> list[str]:
        """The names by which it may be asked."""
        return [f"{name}:{self.server_port}" for name in (HOST, "localhost")]

    def submit(self, form: dict[str, str]) -> None:
        """Do what a form says; one of an earlier page, or sent twice, does nothing."""
        with self.lock:
            if form.get("step") != str(self.step):
                return
            session, self.step = self.session, self.step + 1
            self.problem = self.draft = ""
            if "end" in form:
                self.ended = True
            elif "new" in form:
                session.start_again()
            elif session.replies:
                session.vote({"0": 0, "1": 1}.get(form.get("vote", "")))
            elif text := form.get("text", "").strip():
                self._ask(text)

    def _ask(self, text: str) -> None:
        try:
            self.session.ask(text)
        except AlignmentError as error:
            self.problem, self.draft = str(error), text

    def page(self) -> bytes:
        """The page as it is now; it does not say whose replies they are."""
        with self.lock:
            return (
                _templates.get_template("chat.html.j2")
                .render(
                    step=self.step,
                    turns=self.session.turns,
                    replies=self.session.replies,
                    problem=self.problem,
                    draft=self.draft,
                    ended=self.ended,
                    result=self.session.result() if self.ended else (),
                )
                .encode()
            )


class ChatHandler(BaseHTTPRequestHandler):
    """Shows the page, and takes its forms."""

    server: ChatServer

    def do_GET(self) -> None:
        """Show the page."""
        if self._allowed():
            self._send(self.server.page())

    def do_POST(self) -> None:
        """Take a form from this page."""
        origin = self.headers.get("Origin")
        if not self._allowed():
            return
        if origin not in [f"http://{name}" for name in self.server.names]:
            self.send_error(403, "not from this page")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            self.send_error(413)
            return
        body = self.rfile.read(int(length)).decode(errors="replace")
        fields = parse_qs(body, keep_blank_values=True)
        self.server.submit({name: values[-1] for name, values in fields.items()})
        if self.server.ended:
            self._send(self.server.page())
            self.server.shutdown()
            return
        self.send_response(303)  # so that loading the page again sends nothing
        self.send_header("Location", self.server.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _allowed(self) -> bool:
        if self.headers.get("Host") not in self.server.names:
            self.send_error(403, "not a name of this machine")
        elif not secrets.compare_digest(self.path.encode(), self.server.path.encode()):
            self.send_error(404)
        else:
            return True
        return False

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        for name, value in (*HEADERS.items(), ("Content-Length", f"{len(content)}")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def compare_in_browser(session: Comparison, port: int) -> None:
    """Hold a session in the browser until it is ended there, or by Ctrl-C.

    Raises:
        UsageError: the port is taken.
    """
    try:
        server = ChatServer(session, port)
    except OSError as error:
        raise UsageError(f"--web {port}: {error.strerror}; name another port, or 0") from error
    with server:
        say(f"open http://{HOST}:{server.server_port}{server.path} in a browser on this machine")
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            say("")
    for line in session.result():
        say(line)
