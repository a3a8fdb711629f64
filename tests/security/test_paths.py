"""Names from a manifest, a ledger, a reference or a user cannot lead outside the store."""

import json

import pytest

from alignment.errors import ArtifactError, UsageError
from alignment.pipeline.steps.batches import batch_file
from alignment.store.store import MANIFEST, Store
from tests.alignment.artifacts import put

KEY = "batch-0123"
OUTSIDE = ("../secret", "a/../../secret", "/etc/passwd", "..", "a\\..\\..\\secret", "a\0b")


@pytest.fixture
def store(tmp_path):
    """A store with one artifact of two files, and a secret beside it."""
    store = Store(root=tmp_path / "store")
    files = {"rows.jsonl": "{}\n", "folder/more.jsonl": "{}\n"}
    put(store, KEY, output={"file": "rows.jsonl"}, files=files)
    (tmp_path / "secret").write_text("secret")
    return store


@pytest.fixture
def rewrite(store):
    """A function that changes the artifact's manifest, like an attacker with access to the disk."""

    def change(**fields):
        manifest = store.folder(KEY) / MANIFEST
        record = json.loads(manifest.read_text()) | fields
        record.pop("digest")  # old manifests have no digest of their own
        manifest.write_text(json.dumps(record))

    return change


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_key_or_uri_that_leads_outside_the_store_is_refused(store, path):
    for reach in (store.folder, store.find, store.open, lambda key: store.path(f"store:{key}")):
        with pytest.raises(ArtifactError, match="leads outside the folder that it belongs to"):
            reach(path)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_manifest_that_names_a_file_outside_its_artifact_is_refused(store, rewrite, path):
    rewrite(files=[{"path": path, "size": 6, "sha256": "0" * 64}])
    with pytest.raises(ArtifactError, match="is damaged"):
        store.open(KEY)


@pytest.mark.parametrize("path", [path for path in OUTSIDE if not path.startswith("/")])
def test_a_batch_whose_file_is_outside_its_artifact_is_refused(store, rewrite, path):
    rewrite(output={"file": path})
    with pytest.raises(ArtifactError, match="leads outside the folder that it belongs to"):
        batch_file(store, KEY)


@pytest.mark.parametrize("linked", ["rows.jsonl", "folder"])
def test_a_link_in_an_artifact_is_refused_even_with_the_same_bytes(store, tmp_path, linked):
    place = store.folder(KEY) / linked
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    reopened = Store(root=store.root.rename(tmp_path / "moved"))
    with pytest.raises(
        ArtifactError, match="is a link, but an artifact must contain its own files"
    ):
        reopened.open(KEY)


def test_a_whole_store_may_be_behind_a_link(store, tmp_path):
    (tmp_path / "link").symlink_to(store.root)
    assert Store(root=tmp_path / "link").open(KEY).key == KEY


@pytest.mark.parametrize("line", ["../main", "/main", "a/b", "..", "", "Main"])
def test_a_line_name_that_is_a_path_is_refused(line):
    from flows.arguments import line_name

    with pytest.raises(UsageError, match=r"--line .* lower-case letters, digits and dashes"):
        line_name(line)
