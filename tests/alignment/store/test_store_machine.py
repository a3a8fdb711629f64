"""Random histories of a store compared with a dict: killed builds, full disks, and damage."""

import contextlib
import shutil
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from alignment.errors import ArtifactError
from alignment.store.store import MANIFEST, Store
from tests.alignment.artifacts import record_of
from tests.faults.failpoints import Broken, arm
from tests.machines import histories, history_folder

KEYS = st.sampled_from(["sft-1", "dpo-1", "merge-1"])
NAMES = ("weights.bin", "logs/history.jsonl")


class Machine(RuleBasedStateMachine):
    """`intact` has the content of each artifact that must open; no other artifact may open."""

    @initialize()
    def begin(self):
        self.folder = history_folder()
        self.store = Store(root=Path(self.folder.name))
        self.intact: dict[str, bytes] = {}

    @rule(key=KEYS, content=st.binary(min_size=1, max_size=1500), dies=st.integers(0, 24))
    def build(self, key, content, dies):
        """Like a run: reuse, or build and commit; it dies at a failpoint, or not at all."""
        end = arm("raise", nth=dies)
        with contextlib.suppress(Broken):
            self.reuse_or_build(key, content)
        end()
        self.reuse_or_build(key, content)

    @rule(key=KEYS, content=st.binary(min_size=1, max_size=600), at=st.integers(1, 20))
    def disk_is_full(self, key, content, at):
        """The run fails; the next one, with free space, continues."""
        end = arm("full", nth=at)
        with contextlib.suppress(OSError):
            self.reuse_or_build(key, content)
        end()
        self.reuse_or_build(key, content)

    def reuse_or_build(self, key, content):
        if self.store.reuse(key) is None:
            assert key not in self.intact
            workspace = self.store.workspace(key)
            for name in NAMES:
                (workspace.out / name).parent.mkdir(parents=True, exist_ok=True)
                (workspace.out / name).write_bytes(content)
            self.store.commit(record_of(key), workspace)
        assert self.read(key) == self.intact.get(key, content) or key not in self.intact
        self.intact[key] = self.read(key)

    def read(self, key):
        first, second = ((self.store.folder(key) / name).read_bytes() for name in NAMES)
        assert first == second, "files of two builds in one artifact"
        return first

    @rule(
        key=KEYS, place=st.floats(0, 1, exclude_max=True), file=st.sampled_from([*NAMES, MANIFEST])
    )
    def flip_a_bit(self, key, place, file):
        if key not in self.intact:
            return
        path = self.store.folder(key) / file
        content = bytearray(path.read_bytes())
        bit = int(place * 8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        del self.intact[key]

    @rule(key=KEYS, file=st.sampled_from([*NAMES, MANIFEST]))
    def lose_a_file(self, key, file):
        if key in self.intact:
            (self.store.folder(key) / file).unlink()
            del self.intact[key]

    @rule(key=KEYS)
    def lose_the_artifact(self, key):
        shutil.rmtree(self.store.folder(key), ignore_errors=True)
        self.intact.pop(key, None)

    @invariant()
    def what_opens_is_what_was_committed(self):
        for key in ("sft-1", "dpo-1", "merge-1"):
            if key in self.intact:
                self.store.open(key)
                assert self.read(key) == self.intact[key]
                continue
            try:
                self.store.open(key)
            except ArtifactError:
                continue
            raise AssertionError(f"{key} opens")

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


Machine.TestCase.settings = histories(examples=30, steps=20)
TestStoreAgainstAModel = Machine.TestCase
