"""What is installed is what was pinned: no package comes in unseen, or in another version."""

import re
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def pinned(text):
    pairs = re.findall(r"^([\w.-]+)==([\w.]+)$", text, flags=re.MULTILINE)
    return {canonicalize_name(name): exact for name, exact in pairs}


def needed(name, extras=(), seen=None):
    """Every package that one asks for here, and those ask for in turn."""
    seen = set() if seen is None else seen
    for line in distribution(name).requires or ():
        wanted = Requirement(line)
        environments = [{"extra": extra} for extra in (*extras, "")]
        meant = wanted.marker is None or any(map(wanted.marker.evaluate, environments))
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if meant and key not in seen:
            seen.add(key)
            needed(wanted.name, tuple(wanted.extras), seen)
    return seen


def strangers(pins):
    """Packages the project needs that are not pinned, or not to what is installed."""
    names = {name for name, _ in needed("sft-dpo", ("dev",))}
    return sorted(name for name in names if pins.get(name) != version(name).partition("+")[0])


def test_every_package_the_project_needs_is_pinned_to_what_is_installed():
    assert strangers(pinned(CONSTRAINTS.read_text())) == []


def test_one_that_came_in_unpinned_or_in_another_version_is_found():
    pins = pinned(CONSTRAINTS.read_text())
    del pins["pydantic"]
    assert strangers({**pins, "jinja2": "0.1"}) == ["jinja2", "pydantic"]


def test_a_package_that_leaks_keys_is_not_among_them():
    """litellm held every key and was taken over twice; nothing here may bring it in."""
    assert "litellm" not in pinned(CONSTRAINTS.read_text())
    try:
        found = version("litellm")
    except PackageNotFoundError:
        found = None
    assert found is None
