"""What is installed is what was pinned: no package comes in unseen, or in another version."""

import re
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CONSTRAINTS, LOCK = ROOT / "constraints.txt", ROOT / "docker/requirements.lock"
TORCHS = ("torch", "triton", "nvidia-", "cuda-")
"""Left to the index that serves torch: another build of it has other files."""


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


def unlocked(lock):
    """Packages of the image that are not in the lock by hash, or in another version than pinned."""
    hashed = re.findall(
        r"^([\w.-]+)==([\w.]+) \\\n +--hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE
    )
    found = {canonicalize_name(name): exact for name, exact in hashed}
    pins = pinned(CONSTRAINTS.read_text())
    names = {name for name, _ in needed("sft-dpo") if not name.startswith(TORCHS)}
    return sorted(name for name in names if found.get(name) != pins[name])


def test_the_image_takes_each_package_by_its_hash():
    assert unlocked(LOCK.read_text()) == []
    assert "pip install --require-hashes" in (ROOT / "docker/Dockerfile").read_text()


def test_one_without_a_hash_or_in_another_version_is_found():
    lock = re.sub(
        r"^pydantic==[\w.]+ \\\n", "pydantic==0.1 \\\n", LOCK.read_text(), flags=re.MULTILINE
    )
    lock = re.sub(r"^rich==([\w.]+) \\\n( +--hash.*\n)+", r"rich==\1\n", lock, flags=re.MULTILINE)
    assert unlocked(lock) == ["pydantic", "rich"]


def test_a_package_that_leaks_keys_is_not_among_them():
    """litellm held every key and was taken over twice; nothing here may bring it in."""
    assert "litellm" not in pinned(CONSTRAINTS.read_text())
    try:
        found = version("litellm")
    except PackageNotFoundError:
        found = None
    assert found is None
