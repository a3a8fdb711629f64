"""The configurations that come with the project, by name."""

import difflib
from pathlib import Path

from alignment.errors import UsageError

PRESETS = Path(__file__).parents[1] / "deployments" / "configs"
SCHEMA = Path(__file__).parents[1] / "docs" / "config.schema.json"
"""The JSON schema of a configuration, for editors."""


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def find_config(config: str) -> Path:
    """The path of a preset by its name; anything with a slash or a file extension is a path."""
    path = Path(config)
    return path if "/" in config or path.suffix else PRESETS / f"{config}.yaml"


def config_argument(config: Path) -> Path:
    """The config that a user names in a shell, where a file without an extension is a file, too.

    Raises:
        UsageError: there is neither such a file nor such a preset.
    """
    found = config if config.exists() else find_config(str(config))
    if found.parent == PRESETS and not found.exists():
        near = difflib.get_close_matches(str(config), preset_names(), n=1)
        hint = f". Did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"there is no file {config}, and no preset of that name; presets: "
            f"{', '.join(preset_names())}{hint}"
        )
    if not found.exists() and found.stem in preset_names():
        raise UsageError(
            f"there is no file {config} below {Path.cwd()}; for the preset of that name, write "
            f"{found.stem}"
        )
    return found


def name_of_config(config: str | Path) -> str:
    """What a user types for a config: the name of a preset, or the path."""
    path = Path(config)
    return path.stem if path.parent == PRESETS else str(config)
