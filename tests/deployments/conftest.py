import pytest


@pytest.fixture
def config(service, tiny_settings, write_config):
    """A config of the tiny chain with one round, in the store that the tests share."""
    tiny_settings |= {
        "store": str(service.store),
        "rounds": tiny_settings["rounds"][:1],
        "control": None,
    }
    return write_config(tiny_settings)


@pytest.fixture
def finished(service, config):
    """The id of the first completed run; later ones reuse its artifacts."""
    path = service.folder / "first-run"
    if not path.exists():
        run = service.start("sft-dpo/cpu", f"config={config}")
        state = service.finish(run, seconds=600)
        assert state["type"] == "COMPLETED", state["message"]
        path.write_text(run)
    return path.read_text()
