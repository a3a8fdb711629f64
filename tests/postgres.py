"""A temporary PostgreSQL for tests of the service, on loopback, removed after the test."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.prefect_service import free_port

OWNER = "postgres"
"""The system user that runs it: PostgreSQL refuses to run as root."""


@dataclass(frozen=True)
class Postgres:
    """A running server: its programs, data folder and port."""

    programs: Path
    place: Path
    port: int

    @property
    def url(self) -> str:
        """The connection URL of Prefect's database."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/prefect"

    def make_database(self) -> None:
        """Create an empty database; drop an existing one first."""
        place = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "prefect")
        self.call("dropdb", *place, "--if-exists", "prefect")
        self.call("createdb", *place, "prefect")

    def call(self, program: str, *words: str) -> None:
        """Run one of PostgreSQL's programs as its owner, and wait for it."""
        prefix = ["runuser", "-u", OWNER, "--"] if os.geteuid() == 0 else []
        command = [*prefix, str(self.programs / program), *words]
        subprocess.run(command, check=True, cwd=self.place, stdout=subprocess.DEVNULL)


@contextmanager
def postgresql() -> Iterator[Postgres]:
    """A server with an empty database; skips the test if PostgreSQL is not installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    port, place = free_port(), Path(tempfile.mkdtemp(prefix="postgres-"))
    if os.geteuid() == 0:
        owner = pwd.getpwnam(OWNER)
        os.chown(place, owner.pw_uid, owner.pw_gid)
    made = Postgres(programs[-1], place, port)
    data = str(place / "data")
    made.call("initdb", "-D", data, "-A", "trust", "-U", "prefect", "--no-sync")
    listen = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place}"
    made.call("pg_ctl", "-D", data, "-w", "-l", str(place / "log"), "-o", listen, "start")
    try:
        made.make_database()
        yield made
    finally:
        made.call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(place, ignore_errors=True)
