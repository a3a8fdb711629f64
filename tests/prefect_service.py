"""A real Prefect server and a real process worker, for tests that need the whole service."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

ROOT = Path(__file__).parent.parent
WATCHED = ROOT / "tests" / "security" / "watched"
T = TypeVar("T")
WORKER = ("prefect", "worker", "start", "--pool", "gpu", "--with-healthcheck")
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
PLANTED = "hf_plantedInTheEnvironment0123"
SETTINGS = {
    "HF_TOKEN": PLANTED,  # a secret that must not appear anywhere
    "OMP_NUM_THREADS": "1",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}
"""No telemetry and leases on disk are defaults of the project (`pyproject.toml`)."""


@dataclass(frozen=True)
class Held:
    """What runs hold on a server.

    Attributes:
        slots: used slots of all concurrency limits; each deployment has its own limit.
        leases: leases on those slots, on the server's disk.
        runs: runs that count against the limits of the pool and its queues.
    """

    slots: int
    leases: int
    runs: int


@dataclass(frozen=True)
class Service:
    """A running server, and what tests can do with it."""

    url: str
    folder: Path
    environment: dict[str, str]

    @property
    def store(self) -> Path:
        """A store shared by tests, so that they can reuse artifacts."""
        return self.folder / "store"

    def run(
        self, *words: str, seconds: float = 600, cwd: Path = ROOT, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run Python with these arguments to its end, by default in the project root."""
        return subprocess.run(
            [sys.executable, *words],
            cwd=cwd,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def ask(self, path: str, **body: Any) -> Any:
        """The server's answer to a GET, or to a POST if there is a body."""
        return self.send("POST" if body else "GET", path, **body)

    def send(self, method: str, path: str, **body: Any) -> Any:
        """The server's answer through Prefect's own client, which retries after a 503.

        The server answers 503 while its SQLite database is locked. There is no TLS: without
        `verify=False`, each client would load all certificates, which takes 20 ms.
        """
        from prefect.client.base import PrefectHttpxSyncClient

        with PrefectHttpxSyncClient(timeout=120, verify=False) as client:
            answer = client.request(method, f"{self.url}{path}", json=body or None)
        return answer.json() if answer.content else None

    def submit(
        self, deployment: str, *parameters: str, job_variable: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """`prefect deployment run` with parameters, and optionally a job variable as KEY=JSON."""
        given = [word for parameter in parameters for word in ("--param", parameter)]
        given += ["--job-variable", job_variable] if job_variable else []
        return self.run("-m", "prefect", "deployment", "run", deployment, *given)

    def start(self, deployment: str, *parameters: str, job_variable: str = "") -> str:
        """Start a run and return its id."""
        done = self.submit(deployment, *parameters, job_variable=job_variable)
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
        assert found, done.stdout
        return found[1]

    def finish(self, run: str, *, seconds: float) -> dict[str, Any]:
        """Wait for a run and return its final state."""
        return wait_for(
            f"run {run}",
            lambda: state if (state := self.state(run))["type"] in FINAL else None,
            seconds=seconds,
            log=self.folder / "log",
        )

    def state(self, run: str) -> dict[str, Any]:
        """The current state of a run."""
        state: dict[str, Any] = self.ask(f"/flow_runs/{run}")["state"]
        return state

    def processes(self, run: str) -> list[psutil.Process]:
        """The processes of a flow run: its own and its descendants."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                    found.append(process)
        return found

    def whole_log(self, run: str) -> str:
        """The log of a run after its process has ended, so that its last lines are included."""
        wait_for(
            "the end of its process",
            lambda: None if self.processes(run) else True,
            seconds=300,
            log=self.folder / "log",
        )
        return self.log(run)

    def tasks(self, run: str) -> list[tuple[str, str]]:
        """The name and state of each task of a run, in order."""
        found = self.of_run("/task_runs/filter", run, sort="EXPECTED_START_TIME_ASC")
        return [(task["name"], task["state_name"]) for task in found]

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """The artifacts on a run's page, by key."""
        found = self.of_run("/artifacts/filter", run)
        return {artifact["key"]: artifact for artifact in found if artifact["key"]}

    def held(self) -> Held:
        """What runs hold at this moment."""
        limits = self.ask("/v2/concurrency_limits/filter", limit=200)
        folder = Path(self.environment["PREFECT_HOME"]) / "concurrency_leases"
        leases = [json.loads(path.read_text()) for path in folder.glob("*-*.json")]
        at_work = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
        return Held(
            slots=sum(limit["active_slots"] for limit in limits),
            leases=sum(
                bool(lease["resource_ids"]) for lease in leases
            ),  # leases of tasks hold nothing
            runs=self.ask("/flow_runs/count", flow_runs=at_work),
        )

    def check_free(self) -> None:
        """Assert that nothing is held within a minute, so that the next run need not wait."""
        free = Held(slots=0, leases=0, runs=0)
        wait_for(
            f"{free} (now {self.held()})",
            lambda: True if self.held() == free else None,
            seconds=300,
            log=self.folder / "log",
        )

    def log(self, run: str) -> str:
        """The log on a run's page."""
        chosen = {"flow_run_id": {"any_": [run]}}
        return "\n".join(line["message"] for line in self.ask("/logs/filter", logs=chosen))

    def of_run(self, path: str, run: str, **more: Any) -> list[dict[str, Any]]:
        """All objects of one kind that belong to a run."""
        found: list[dict[str, Any]] = self.ask(path, flow_runs={"id": {"any_": [run]}}, **more)
        return found


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Service]:
    """A server with an empty database, reachable from this machine only."""
    service = planned(folder, **environment)
    with answering(service):
        yield service


def planned(folder: Path, **environment: str) -> Service:
    """A server that is not started yet."""
    url = f"http://127.0.0.1:{free_port()}/api"
    own = {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": url,
        "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
        **environment,
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return Service(url, folder, inherited | SETTINGS | watched(folder / "outside") | own)


@contextmanager
def answering(service: Service) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the server; yields its process once it answers."""
    port = service.url.rpartition(":")[2].removesuffix("/api")
    log = service.folder / "log"
    with running(service, "sft_dpo", "server", "--port", port) as process:
        wait_for("server", lambda: answers(service.url, process), seconds=600, log=log)
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        yield process


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server shared by the whole session."""
    with serving(tmp_path_factory.mktemp("prefect")) as service:
        yield service


@pytest.fixture(scope="session")
def service(server: Service) -> Iterator[Service]:
    """The server after `sft-dpo deploy`, with a worker on its pool."""
    bootstrap(server)
    with running(server, *WORKER):
        yield server


def watched(log: Path) -> dict[str, str]:
    """Environment that limits the sockets of Python and its children to this machine.

    Attempts to reach other machines fail and are written to `log`.
    """
    path = [str(WATCHED), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path), "OUTSIDE_LOG": str(log)}


def bootstrap(service: Service) -> None:
    """Run `sft-dpo deploy` on a server."""
    done = service.run("-m", "sft_dpo", "deploy")
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running(service: Service, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A program in its own process group, which is killed at the end of the block."""
    with (service.folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=service.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end_group(process)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM to a process group, and SIGKILL after half a minute."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def wait_for(what: str, look: Callable[[], T | None], *, seconds: float, log: Path) -> T:
    """Call `look` four times a second until it finds something; a timeout shows the log's end."""
    until = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > until:
            tail = log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"{what}: nothing after {seconds:.0f} s\n{tail}")
        time.sleep(0.25)
    return found


def overrides(*changes: str) -> str:
    """The parameter `overrides` for `Service.submit`."""
    return f"overrides={json.dumps(changes)}"


def answers(url: str, process: "subprocess.Popen[bytes]") -> bool | None:
    """True once the server answers, or has ended."""
    return True if process.poll() is not None else healthy(url)


def healthy(url: str) -> bool | None:
    """True once the server answers."""
    try:
        return httpx.get(f"{url}/health", timeout=2, verify=False).is_success or None
    except httpx.HTTPError:
        return None


def free_port() -> int:
    """A free TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
