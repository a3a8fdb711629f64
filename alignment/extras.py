"""Optional packages: imported where they are needed, with one error that says how to get them.

The distribution is in no public index, so what installs an extra is where it came from itself: a
wheel, a checkout or a repository, which pip notes beside it (PEP 610).
"""

import json
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

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
            f"{module} is not installed. Install the extra {extra!r} ({how_to_install(extra)}), or "
            "remove the setting that needs it."
        ) from error


def how_to_install(extra: str) -> str:
    """The command that adds an extra to this installation."""
    source = _source()
    if source is None:
        return f"pip install 'WHEEL[{extra}]' with the wheel of sft-dpo, in a checkout '.[{extra}]'"
    if source.startswith("git+"):
        return f"pip install 'sft-dpo[{extra}] @ {source}'"
    return f"pip install '{source}[{extra}]'"


def _source() -> str | None:
    """The wheel, folder or repository that this was installed from, if that is still there."""
    try:
        noted = json.loads(distribution("sft-dpo").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    url, vcs = noted.get("url", ""), noted.get("vcs_info", {})
    if vcs.get("vcs") == "git":
        return f"git+{url}@{vcs['commit_id']}"
    path = Path(unquote(urlsplit(url).path))
    return str(path) if url.startswith("file:") and path.exists() else None
