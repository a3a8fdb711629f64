"""A flipped bit in any file of any kind of artifact is detected when the artifact is opened."""

import random
import shutil

from alignment.errors import ArtifactError
from alignment.store.store import MANIFEST, Store


def flip(path, generator):
    content = bytearray(path.read_bytes())
    bit = generator.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_flipped_bit_in_any_file_of_any_artifact_is_detected(finished, tmp_path, record_property):
    generator, tried, missed = random.Random(0), set(), []
    store = Store(root=tmp_path)
    for record in finished.records.values():
        for file in [*(file.path for file in record.files if file.size), MANIFEST]:
            shutil.rmtree(store.folder(record.key), ignore_errors=True)
            shutil.copytree(finished.store.folder(record.key), store.folder(record.key))
            flip(store.folder(record.key) / file, generator)
            tried.add((record.stage, file))
            try:
                store.open(record.key)
            except ArtifactError:
                continue
            missed.append((record.name, file))
    record_property("tried", len(tried))
    kinds = {"base", "pairs", "conversations", "sft", "dpo", "merge", "evaluate", "gate"}
    assert {stage for stage, _ in tried} >= kinds
    assert not missed, f"{len(missed)} of {len(tried)}"
