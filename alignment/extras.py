"""Optional packages: imported where they are needed, with one error that says how to get them."""

from importlib import import_module
from typing import Any

from alignment.errors import ConfigError


def require(module: str, *, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: its name.
        extra: the extra of this project that installs it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{module} is not installed. Install the extra {extra!r}, in a checkout with "
            f"`pip install -e '.[{extra}]'`, or remove the setting that needs it."
        ) from error
