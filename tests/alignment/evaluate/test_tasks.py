import pytest

from alignment.evaluate.tasks import data_files


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"test": "a.jsonl"}, ["a.jsonl"]),
        ({"test": ["a.jsonl", "b[1].jsonl"]}, ["a.jsonl", "b[1].jsonl"]),
        (["a.jsonl"], ["a.jsonl"]),
        ("*.jsonl", ["a.jsonl", "b[1].jsonl"]),
        ({"test": "hf://datasets/someone/some/a.jsonl"}, []),
        ({"test": None}, []),
        (None, []),
    ],
)
def test_all_data_files_of_a_task_count_for_its_results(named, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b[1].jsonl"):
        (tmp_path / name).touch()
    found = data_files({"dataset_kwargs": {"data_files": named}})
    assert [str(path) for path in found] == expected
