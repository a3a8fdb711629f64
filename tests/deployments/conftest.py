import pytest


@pytest.fixture
def config(service, tiny_settings, write_config):
    """A file that describes the tiny chain with one round, in the store that the tests share."""
    tiny_settings |= {
        "store": str(service.store),
        "rounds": tiny_settings["rounds"][:1],
        "control": None,
    }
    return write_config(tiny_settings)
