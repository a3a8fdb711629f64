"""A real server with the settings of compose.yaml: nothing works without the password."""

from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.docker.service_files import COMPOSE, SECRETS, fill
from tests.inbox import line_settings
from tests.postgres import postgresql
from tests.prefect_service import WORKER, bootstrap, running, serving

pytestmark = pytest.mark.slow

ELSEWHERE = {"PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_SERVER_UI_API_URL"}
SOCKETS = ("events/in", "events/out", "logs/out")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def guarded(request, tmp_path_factory):
    """The server on either database, and the credentials of a client that knows the password."""
    settings = COMPOSE["services"]["server"]["environment"]
    kept = {key: fill(value, SECRETS) for key, value in settings.items() if key not in ELSEWHERE}
    assert kept["PREFECT_SERVER_API_AUTH_STRING"] == SECRETS["PREFECT_AUTH"]
    with ExitStack() as stack:
        if request.param == "postgresql":
            database = stack.enter_context(postgresql())
            kept["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database.url
        server = stack.enter_context(serving(tmp_path_factory.mktemp("guarded"), **kept))
        yield server, httpx.BasicAuth(*SECRETS["PREFECT_AUTH"].split(":"))


@pytest.mark.parametrize("path", ["admin/version", "csrf-token?client=x", "work_queues/x"])
def test_a_call_without_the_password_is_refused(guarded, path):
    server, auth = guarded
    wrong = httpx.BasicAuth("admin", "wrong")
    assert httpx.get(f"{server.url}/{path}").status_code == 401
    assert httpx.get(f"{server.url}/{path}", auth=wrong).status_code == 401
    assert httpx.get(f"{server.url}/{path}", auth=auth).status_code != 401


def test_a_change_without_a_csrf_token_is_refused_even_with_the_password(guarded):
    server, auth = guarded
    answer = httpx.post(f"{server.url}/flows/filter", json={}, auth=auth)
    assert answer.status_code == 403
    assert "CSRF" in answer.text


@pytest.mark.parametrize("path", SOCKETS)
def test_a_socket_without_the_password_sends_nothing(guarded, path):
    server, _ = guarded
    with pytest.raises((InvalidStatus, WebSocketException)):
        listen(f"{server.url.replace('http', 'ws', 1)}/{path}")


def listen(address):
    """The first message that a client without the password receives."""
    with connect(address, subprotocols=[Subprotocol("prefect")]) as socket:
        socket.send('{"type": "auth", "token": "wrong"}')
        return socket.recv(timeout=60)


def test_bootstrap_and_a_run_work_with_password_and_csrf_protection(
    guarded, tiny_settings, write_config, tmp_path
):
    server, _ = guarded
    bootstrap(server)
    bootstrap(server)
    config = write_config(line_settings(tiny_settings, tmp_path))
    with running(server, *WORKER):
        command = ("-m", "prefect", "deployment", "run", "dpo-round/cpu", "--watch")
        done = server.run(*command, "--param", f"config={config}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (server.folder / "outside").exists()
