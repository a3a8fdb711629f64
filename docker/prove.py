"""Proves the image and the service as far as that goes without a container engine.

    .venv/bin/python docker/prove.py [--python /usr/bin/python3]

Replays the steps of the Dockerfile in an empty folder as a user without rights, then starts
PostgreSQL, the server and a worker from that folder with the environment that compose.yaml gives
them, and stops the worker in the middle of a run. Says at the end what was not run. Needs about
3 GB, network and some minutes. What can be read off the two files is checked by tests/docker.
"""

import argparse
import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
IMAGE_FOLDERS = ("/opt/venv", "/app/runs", "/app", "/var/cache/hub", "/var/lib/prefect")
NEEDS_ENGINE = ("apt-get", "useradd")
NOBODY = 65534
SAVES = """
import pathlib, time
from prefect import flow
FOLDER = pathlib.Path(__file__).parent

@flow
def saves():
    (FOLDER / "started").touch()
    try:
        time.sleep(120)
    finally:
        time.sleep(3)
        (FOLDER / "saved").touch()
"""
DEPLOY = """
from prefect import flow
run = flow.from_source({folder!r}, "saves.py:saves")
run.deploy("proof", work_pool_name="gpu", print_next_steps=False)
"""
CRASHED = """
from prefect.client.orchestration import get_client
(run,) = get_client(sync_client=True).read_flow_runs()
assert run.state.is_crashed(), run.state
"""
SECRETS = {"POSTGRES_PASSWORD": "0123456789abcdef", "PREFECT_AUTH": "admin:fedcba9876543210"}


@dataclass(frozen=True)
class Step:
    """One instruction of the Dockerfile, its continued lines joined."""

    keyword: str
    text: str


def dockerfile() -> list[Step]:
    """The instructions in order, without comments."""
    lines = (ROOT / "docker/Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return [Step(*line.split(maxsplit=1)) for line in joined]


def compose() -> dict[str, Any]:
    """The document of compose.yaml."""
    document: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker/compose.yaml")
    return document


def fill(value: str, given: dict[str, str]) -> str:
    """`${NAME:-default}` and `${NAME:?why}` as compose fills them in."""
    return re.sub(
        r"\$\{(\w+):([-?])([^}]*)\}", lambda m: given.get(m[1], m[3] if m[2] == "-" else ""), value
    )


def check_with_client() -> str | None:
    """`docker compose config`, where the client knows it; otherwise why it was not run."""
    command = ["docker", "compose", "--file", "docker/compose.yaml", "config", "--quiet"]
    if not shutil.which("docker") or subprocess.run(command[:2], capture_output=True).returncode:
        return "`docker compose config`: no such client here"
    subprocess.run(command, cwd=ROOT, env={**os.environ, **SECRETS}, check=True, timeout=60)
    return None


class Image:
    """The build's steps and later its programs, in a folder instead of a container."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.workdir = folder
        self.log = folder / "log"  # what the programs say; shown when a proof fails
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if key.startswith(("PIP_", "SSL_", "REQUESTS_")) or key.lower().endswith("_proxy")
        }
        for name in (*IMAGE_FOLDERS, "/bin", "/home", "/tmp", "/postgres"):
            self.place(name).mkdir(parents=True, exist_ok=True)
        (self.place("/bin") / "python").symlink_to(python)
        own = {"HOME": "/home", "TMPDIR": "/tmp"}
        self.environment |= {key: str(self.place(name)) for key, name in own.items()}
        self.environment["PATH"] = f"{self.place('/bin')}:/usr/local/bin:/usr/bin:/bin"
        self.log.touch()
        self.own(folder)

    def place(self, path: str) -> Path:
        """Where a path of the image lies on this machine."""
        return self.folder / path.lstrip("/")

    def here(self, text: str) -> str:
        """`text` with the image's folders replaced by where they lie on this machine."""
        names = "|".join(map(re.escape, IMAGE_FOLDERS))
        return re.sub(rf"(?<![\w/])({names})(?![\w-])", lambda m: str(self.place(m[1])), text)

    def own(self, path: Path) -> None:
        """Hands a tree to the user that everything here runs as."""
        if os.geteuid() == 0:
            for each in (path, *path.rglob("*")):
                os.chown(each, NOBODY, NOBODY, follow_symlinks=False)

    def start(self, command: list[str], **more: str) -> "subprocess.Popen[bytes]":
        """A program of the image, as a user without rights and leading its own process group."""
        who: dict[str, Any] = (
            {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.workdir,
                env=self.environment | more,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **who,
            )

    def run(self, command: list[str], *, seconds: int, **more: str) -> None:
        """Runs to the end; anything but exit code 0 in time is an AssertionError."""
        with stopping(self.start(command, **more)) as process:
            code = process.wait(seconds)
        assert code == 0, f"exit code {code}: {' '.join(command)}"

    def replay(self, steps: list[Step]) -> list[str]:
        """Every step in turn; returns those that only an engine can run."""
        left_out = []
        for step in steps:
            text = self.here(step.text)
            if step.keyword == "WORKDIR":
                self.workdir = Path(text)
            elif step.keyword == "ENV":
                for key, value in re.findall(r"(\w+)=(\S+)", text):
                    old_path = self.environment["PATH"]
                    self.environment[key] = value.replace("$PATH", old_path)
            elif step.keyword == "COPY":
                self.copy(*text.split())
            elif step.keyword == "RUN" and any(word in text for word in NEEDS_ENGINE):
                left_out.append(f"RUN {step.text[:60]}...")
            elif step.keyword == "RUN":
                say(f"  RUN {step.text[:90]}")
                self.run(["sh", "-c", text], seconds=900)
        return left_out

    def copy(self, *words: str) -> None:
        """COPY: sources from the project, the last word is the target."""
        *names, target = words
        for name in names:
            to = self.workdir / target
            if (ROOT / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", ".env")
                shutil.copytree(ROOT / name, to, ignore=ignore, dirs_exist_ok=True)
            else:
                to.parent.mkdir(exist_ok=True)
                shutil.copy(ROOT / name, to)
        self.own(self.workdir)


@contextlib.contextmanager
def stopping(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """Ends the process and its whole group: SIGTERM, and SIGKILL after 20 seconds."""
    try:
        yield process
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, sign)
                process.wait(20)


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: str, ready: Callable[[], bool], *, seconds: int) -> None:
    """Asks twice a second; AssertionError when the time is over."""
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, f"{what}: not ready after {seconds} s"
        time.sleep(0.5)


def status(url: str, *, auth: str = "") -> int:
    """The answer's HTTP status; 0 when nobody listens."""
    request = urllib.request.Request(url)
    if auth:
        request.add_header("Authorization", f"Basic {base64.b64encode(auth.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextlib.contextmanager
def postgres(image: Image) -> Iterator[int]:
    """A real PostgreSQL with the user, database and password of compose.yaml; yields its port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "no PostgreSQL here: sudo apt install postgresql"
    programs, data, port = found[-1].parent, image.place("/postgres/data"), free_port()
    password = image.place("/postgres/password")
    password.write_text(SECRETS["POSTGRES_PASSWORD"])
    image.own(image.place("/postgres"))
    options = ["--username=prefect", f"--pwfile={password}", "--auth=scram-sha-256"]
    image.run([f"{programs}/initdb", "-D", str(data), "--no-sync", *options], seconds=60)
    command = ["-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(image.place("/tmp"))]
    with stopping(image.start([f"{programs}/postgres", *command])):
        ready = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_for("postgres", lambda: subprocess.run(ready, timeout=5).returncode == 0, seconds=60)
        create = [f"{programs}/createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect"]
        image.run([*create, "prefect"], seconds=30, PGPASSWORD=SECRETS["POSTGRES_PASSWORD"])
        yield port


def serve(image: Image, document: dict[str, Any], steps: list[Step]) -> None:
    """Server on PostgreSQL, then a worker, each with what compose.yaml gives it."""
    services, port, auth = document["services"], free_port(), SECRETS["PREFECT_AUTH"]
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres(image))
        say(f"PASS  PostgreSQL listens on 127.0.0.1:{database}")

        given = {k: fill(v, SECRETS) for k, v in services["server"]["environment"].items()}
        there = given["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
        given["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = there.replace(
            "@postgres:5432", f"@127.0.0.1:{database}"
        )
        swaps = {"0.0.0.0": "127.0.0.1", "4200": str(port)}
        command = [swaps.get(word, word) for word in services["server"]["command"]]
        stack.enter_context(stopping(image.start(command, **given)))
        wait_for("server", lambda: status(f"{url}/api/health") == 200, seconds=120)
        assert not list(image.place("/var/lib/prefect").glob("*.db")), "the server chose SQLite"
        say("PASS  server answers /api/health, on PostgreSQL")
        probe = services["server"]["healthcheck"]["test"][1:]
        image.run([word.replace(":4200", f":{port}") for word in probe], seconds=20)
        say("PASS  compose's healthcheck of the server succeeds")
        version = f"{url}/api/admin/version"
        assert (anonymous := status(version)) == 401, f"anonymous call: {anonymous}"
        assert (known := status(version, auth=auth)) == 200, f"with auth: {known}"
        say("PASS  an anonymous call is refused with 401, one with the auth string gets 200")

        given = {k: fill(v, SECRETS) for k, v in services["worker"]["environment"].items()}
        (start,) = (step.text for step in steps if step.keyword == "CMD")
        check_worker(image, YAML(typ="safe").load(start), given | {"PREFECT_API_URL": f"{url}/api"})


def check_worker(image: Image, command: list[str], given: dict[str, str]) -> None:
    """A worker becomes healthy, takes a run, is stopped, and the run saves before it ends."""
    port, folder = free_port(), image.place("/flow")
    folder.mkdir()
    (folder / "saves.py").write_text(SAVES)
    image.own(folder)
    with stopping(image.start(command, **given, PREFECT_WORKER_WEBSERVER_PORT=str(port))) as worker:
        health = f"http://127.0.0.1:{port}/health"
        wait_for("worker", lambda: status(health) == 200, seconds=60)
        say("PASS  worker answers its healthcheck")
        image.run(["python", "-c", DEPLOY.format(folder=str(folder))], seconds=60, **given)
        image.run(["prefect", "deployment", "run", "saves/proof"], seconds=60, **given)
        wait_for("run", (folder / "started").exists, seconds=60)
        worker.terminate()
        worker.wait(60)
    assert (folder / "saved").exists(), "the run was killed before it could save"
    image.run(["python", "-c", CRASHED], seconds=60, **given)
    say("PASS  a run on pool `gpu` saves when the worker is stopped, and is shown as Crashed")


def say(line: str) -> None:
    """One line for the person, at once."""
    print(line, flush=True)


def build_and_serve(image: Image, document: dict[str, Any], steps: list[Step]) -> list[str]:
    """The proofs that run something; returns the steps that were left out."""
    began = time.monotonic()
    left_out = image.replay(steps)
    user = "nobody" if os.geteuid() == 0 else "the caller"
    size = sum(file.lstat().st_size for file in image.place("/opt/venv").rglob("*")) / 1e9
    took = time.monotonic() - began
    say(f"PASS  build steps replayed as {user} in {took:.0f} s, {size:.2f} GB")
    serve(image, document, steps)
    return left_out


def main() -> None:
    """Runs every proof; the first that fails ends the program with its reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    system = shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.executable
    parser.add_argument("--python", default=system, help="interpreter to build on (%(default)s)")
    python = parser.parse_args().python

    steps, document = dockerfile(), compose()
    subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/docker"], cwd=ROOT, check=True)
    say("PASS  Dockerfile and compose.yaml by tests/docker")
    not_run = [reason] if (reason := check_with_client()) else []

    with tempfile.TemporaryDirectory(prefix="sft-dpo-image-") as folder:
        Path(folder).chmod(0o755)
        image = Image(Path(folder) / "root", python)
        try:
            not_run += build_and_serve(image, document, steps)
        except BaseException:
            say(f"FAIL  the programs' last words:\n{image.log.read_text()[-4000:]}")
            raise

    not_run += [
        "the image's build and layers",
        "the GPU reservation",
        "capabilities, shared memory, restarts",
    ]
    say("NOT RUN (needs an engine or a GPU):\n" + "\n".join(f"  - {line}" for line in not_run))


if __name__ == "__main__":
    main()
