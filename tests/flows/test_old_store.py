"""A store written by an earlier version can be read, and nothing in it is built again."""

import hashlib


def artifacts(folder):
    """The digest of every file in the store's artifacts and ledgers, by path."""
    paths = (path for part in ("objects", "lines") for path in (folder / "store" / part).rglob("*"))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }


def test_a_second_run_and_round_on_an_old_store_build_nothing(server, old_store):
    def command_line(command):
        code = "from flows.cli import main; main()"
        done = server.run("-c", code, command, "tiny.yaml", seconds=300, cwd=old_store)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    before = artifacts(old_store)
    planned = command_line("plan").stdout.splitlines()
    assert len(planned) == 12
    assert {line.split()[0] for line in planned} == {"SKIP"}
    ran = command_line("run").stderr.splitlines()
    assert sum(" reused " in line for line in ran) == 12
    assert command_line("round").stdout.startswith("no new data: 0 new pairs in 0 batches")
    assert artifacts(old_store) == before
