"""A PostgreSQL of its own for tests of the service, on loopback, gone with the test."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.prefect_service import free_port

OWNER = "postgres"
"""The system's user that runs it: PostgreSQL refuses to be run by root."""


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of an empty database; the test is skipped where PostgreSQL is not installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    port, place = free_port(), Path(tempfile.mkdtemp(prefix="postgres-"))
    if os.geteuid() == 0:
        owner = pwd.getpwnam(OWNER)
        os.chown(place, owner.pw_uid, owner.pw_gid)

    def call(program: str, *words: str) -> None:
        prefix = ["runuser", "-u", OWNER, "--"] if os.geteuid() == 0 else []
        command = [*prefix, str(programs[-1] / program), *words]
        subprocess.run(command, check=True, cwd=place, stdout=subprocess.DEVNULL)

    data = str(place / "data")
    call("initdb", "-D", data, "-A", "trust", "-U", "prefect", "--no-sync")
    listen = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place}"
    call("pg_ctl", "-D", data, "-w", "-l", str(place / "log"), "-o", listen, "start")
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect")
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
    finally:
        call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(place, ignore_errors=True)
