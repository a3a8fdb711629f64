"""`sft-dpo server`: be Prefect's server on this machine."""

from alignment.errors import UsageError
from flows.pages_server import serve_pages
from flows.printing import say
from flows.report_server import HOST, taken


def start_server(port: int) -> None:
    """Serve until Ctrl-C.

    Raises:
        UsageError: the port is taken.
    """
    if taken(port):
        raise UsageError(f"port {port} is taken; name another one with --port")
    say(f"pages: http://{HOST}:{port}, until Ctrl-C. In another terminal, in this folder:")
    say(f"  export PREFECT_API_URL=http://{HOST}:{port}/api")
    say("  sft-dpo deploy")
    say("  sft-dpo worker")
    serve_pages(HOST, port)
