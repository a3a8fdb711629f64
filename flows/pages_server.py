"""Prefect's server on this machine, with pages that ask nothing of other machines.

Prefect's present pages ask `sr-client-cfg.amplitude.com` for the settings of a tracker, also where
telemetry is off. No setting prevents it, so each page is sent with a policy by which browsers ask
this server only.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import prefect
import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
NAMES = ("127.0.0.1", "localhost")


def serve_pages(host: str, port: int) -> None:
    """Serve the API and its pages until Ctrl-C."""
    api = get_current_settings().server.api
    uvicorn.run(
        within_this_machine(create_app(final=True), port),
        app_dir=str(prefect.__module_path__.parent),
        host=host,
        port=port,
        timeout_keep_alive=api.keepalive_timeout,
        log_level="warning",
    )


def within_this_machine(app: App, port: int) -> App:
    """The app, with a policy in every answer that keeps browsers from asking anyone else."""
    header = (b"content-security-policy", policy(port).encode())

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), header]
            await send(message)

        await app(scope, receive, send_with_policy)

    return answer


def policy(port: int) -> str:
    """The policy: this server under both names of this machine, over HTTP and sockets."""
    ours = [f"{kind}://{name}:{port}" for kind in ("http", "ws") for name in NAMES]
    return f"default-src {' '.join(ours)} data: blob: 'unsafe-inline' 'unsafe-eval'"
