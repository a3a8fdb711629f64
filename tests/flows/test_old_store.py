"""A store written by an earlier version is read, and nothing in it is changed."""

import hashlib


def artifacts(folder):
    """The digest of every file in the store's artifacts and ledgers, by path."""
    paths = (path for part in ("objects", "lines") for path in (folder / "store" / part).rglob("*"))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }


def test_an_old_store_is_read_and_only_its_base_is_reused(server, old_store):
    """Files are read otherwise, so sets and all that follows are made again, beside the old.

    The model that they would load is gone.
    """

    def command_line(command, *, code=0):
        program = "from flows.cli import main; main()"
        done = server.run("-c", program, command, "tiny.yaml", seconds=900, cwd=old_store)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    before = artifacts(old_store)
    planned = [line.split()[:2] for line in command_line("plan").stdout.splitlines()]
    assert len(planned) == 13
    assert [name.partition("-")[0] for status, name in planned if status == "SKIP"] == ["base"]
    ran = command_line("run", code=2).stderr.splitlines()
    assert sum(" reused " in line for line in ran) == 1
    assert "/example/model does not exist" in ran[-1]
    assert command_line("round").stdout.startswith("no new data: 0 new pairs in 0 batches")
    assert artifacts(old_store) == before


def test_a_damaged_and_a_newer_manifest_are_skipped_and_named(server, old_store):
    """Beside them, the store works as before; a run and a round look at it in the same way."""
    objects = old_store / "store" / "objects"
    for name, manifest in (("damaged-1", "{"), ("newer-1", '{"format": 99, "of": "tomorrow"}')):
        (objects / name).mkdir()
        (objects / name / "manifest.json").write_text(manifest)
    model = next(objects.glob("stack-*")).name
    for words in (["show"], ["promote", model]):
        program, store = "from flows.cli import main; main()", str(old_store / "store")
        done = server.run("-c", program, *words, "--store", store)
        assert done.returncode == 0, done.stderr
        assert "objects/damaged-1/manifest.json is damaged" in done.stderr
        assert "objects/newer-1 was written by a later version" in done.stderr
        assert "Traceback" not in done.stderr
