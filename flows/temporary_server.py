"""Prefect's temporary server, as a run from a shell needs it.

Prefect's own outlives a killed run, and when it dies at its start, Prefect goes on waiting for it.
This one ends with its owner, and says at once what it died of.
"""

import atexit
import contextlib
import re
import subprocess
import tempfile
import time
import urllib.request
from http.client import HTTPException
from typing import IO, Any

import prefect
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from alignment.errors import AlignmentError, Interrupted, UsageError
from alignment.processes import python_module
from flows.environment import SERVER_TIMEOUT, server_environment

POLL_SECONDS = 0.1
ERROR = re.compile(r"^[\w.]+(?:Error|Exception): .+", re.MULTILINE)
"""The last line of a traceback."""


class TemporaryServer(SubprocessASGIServer):
    """The server of this process; Prefect finds it where it would put its own.

    `SubprocessASGIServer` keeps one instance, of whichever class asked first.
    """

    _log: IO[str]

    def start(self, timeout: int | None = None) -> None:
        """Start the server and wait until it answers.

        Raises:
            UsageError: the server failed at its start.
            Interrupted: it was killed, or did not answer in time.
        """
        if self.running:
            return
        settings = get_current_settings().server.ephemeral
        until = time.monotonic() + (timeout or settings.startup_timeout_seconds)
        atexit.register(self.stop)
        self._launch()
        while not self._answers():
            if self._is_dead():
                self._replace_or_give_up()
            if time.monotonic() >= until:
                self.stop()
                raise _late(settings.startup_timeout_seconds)
            time.sleep(POLL_SECONDS)
        self.running = True

    def _launch(self) -> None:
        self.port = self.find_available_port()
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - the server's
        self.server_process = self._run_uvicorn_command()

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        uvicorn = ["--app-dir", str(prefect.__module_path__.parent), "--log-level", "error"]
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--lifespan", "on"]
        app = ["--factory", "prefect.server.api.server:create_app"]
        return subprocess.Popen(
            python_module("flows.owned_server", *uvicorn, *address, *app),
            env=server_environment(
                get_current_settings().to_environment_variables(exclude_unset=True)
            ),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
        )

    def _answers(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.api_url}/health", timeout=5):
                return True
        except (OSError, HTTPException):  # refused, too slow, or a status that says not yet
            return False

    def _is_dead(self) -> bool:
        return self.server_process is not None and self.server_process.poll() is not None

    def _replace_or_give_up(self) -> None:
        """Start again on another port if somebody else has taken this one meanwhile."""
        assert self.server_process is not None
        assert self.port is not None
        error = _died(self.server_process.returncode, self._last_error())
        taken = not self.is_port_available(self.port)
        self.stop()
        if not taken:
            raise error
        self._launch()

    def _last_error(self) -> str:
        self._log.seek(0)
        text = self._log.read()
        return (ERROR.findall(text) or text.strip().splitlines() or ["no error was written"])[-1]

    def stop(self) -> None:
        """Stop the server, if it runs."""
        process = self.server_process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it is dead already
                process.stdin.write(b"stop")
                process.stdin.close()
        super().stop()
        if process is not None:
            self._log.close()


def _late(seconds: int) -> Interrupted:
    return Interrupted(
        f"Prefect's temporary server did not answer within {seconds} s, so nothing was run. "
        f"Try again when the machine is less busy, set {SERVER_TIMEOUT} higher, or set "
        "PREFECT_API_URL to a running server."
    )


def _died(code: int, error: str) -> AlignmentError:
    if code < 0:
        return Interrupted(
            f"Prefect's temporary server was killed by signal {-code} at its start, so nothing "
            "was run. Run the same command again."
        )
    return UsageError(
        f"Prefect's temporary server failed at its start, so nothing was run: {error}. It keeps "
        f"its data in {get_current_settings().home}. If that folder cannot be written, or a later "
        "version of Prefect has used it, set PREFECT_HOME to another one."
    )
