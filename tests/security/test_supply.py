"""Only pinned packages are installed: none comes in unnoticed, or in another version."""

import re
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CONSTRAINTS, LOCK = ROOT / "constraints.txt", ROOT / "docker/requirements.lock"
FROM_TORCH_INDEX = ("torch", "triton", "nvidia-", "cuda-")
"""Not in the lock: they come from the torch index, where other builds have other files."""


def pinned(text):
    pairs = re.findall(r"^([\w.-]+)==([\w.]+)$", text, flags=re.MULTILINE)
    return {canonicalize_name(name): exact for name, exact in pairs}


def needed(name, extras=(), seen=None):
    """The packages that a package requires in this environment, and their requirements in turn."""
    seen = set() if seen is None else seen
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in (*extras, "")]
        applies = requirement.marker is None or any(map(requirement.marker.evaluate, environments))
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if applies and key not in seen:
            seen.add(key)
            needed(requirement.name, tuple(requirement.extras), seen)
    return seen


def not_pinned(pins):
    """Required packages that are not pinned to the installed version."""
    names = {name for name, _ in needed("sft-dpo", ("dev", "train"))}
    return sorted(name for name in names if pins.get(name) != version(name).partition("+")[0])


def test_every_required_package_is_pinned_to_the_installed_version():
    assert not_pinned(pinned(CONSTRAINTS.read_text())) == []


def test_an_unpinned_package_or_another_version_is_detected():
    pins = pinned(CONSTRAINTS.read_text())
    del pins["pydantic"]
    assert not_pinned({**pins, "jinja2": "0.1"}) == ["jinja2", "pydantic"]


def not_locked(lock):
    """Packages of the image that are not in the lock with a hash and the pinned version."""
    hashed = re.findall(
        r"^([\w.-]+)==([\w.]+) \\\n +--hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE
    )
    found = {canonicalize_name(name): exact for name, exact in hashed}
    pins = pinned(CONSTRAINTS.read_text())
    names = {
        name for name, _ in needed("sft-dpo", ("train",)) if not name.startswith(FROM_TORCH_INDEX)
    }
    return sorted(name for name in names if found.get(name) != pins[name])


def test_the_image_installs_each_package_by_its_hash():
    assert not_locked(LOCK.read_text()) == []
    assert "pip install --require-hashes" in (ROOT / "docker/Dockerfile").read_text()


def test_a_package_without_a_hash_or_in_another_version_is_detected():
    lock = re.sub(
        r"^pydantic==[\w.]+ \\\n", "pydantic==0.1 \\\n", LOCK.read_text(), flags=re.MULTILINE
    )
    lock = re.sub(r"^rich==([\w.]+) \\\n( +--hash.*\n)+", r"rich==\1\n", lock, flags=re.MULTILINE)
    assert not_locked(lock) == ["pydantic", "rich"]


def test_litellm_is_not_among_them():
    """litellm handles API keys and was compromised twice; no dependency may bring it in."""
    assert "litellm" not in pinned(CONSTRAINTS.read_text())
    try:
        found = version("litellm")
    except PackageNotFoundError:
        found = None
    assert found is None
