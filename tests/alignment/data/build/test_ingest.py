"""Ingestion of any data by its path: the files written, the report, and the errors."""

import gzip
import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.data.build.ingest import IngestOptions, ingest
from alignment.data.read import files, json_rows
from alignment.data.read.files import Meter
from alignment.data.row import Rejected
from alignment.errors import DataError, StorageError

PAIRS = [
    {"prompt": f"Question {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(20)
]
CHATS = [{"instruction": f"Do {n}", "input": "", "output": f"Done {n}"} for n in range(5)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run_ingest(paths, out, **wanted):
    return ingest(paths, IngestOptions(**wanted), out=out, on_progress=lambda *_: None)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_folder_of_several_formats_is_read_file_by_file(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.jsonl", PAIRS)
    write(folder / "b.jsonl", CHATS)
    write(folder / "c.jsonl", [{"x": 1}] * 3)
    report = run_ingest([str(folder)], tmp_path / "out")
    assert [(file.format, file.gives, file.kept) for file in report.files] == [
        ("preference", "pairs", 20),
        ("instruction", "conversations", 5),
        ("unknown", None, 0),
    ]
    assert (report.read, report.kept, report.quarantined) == (28, 25, {"unknown_format": 3})
    kept, aside = (lines(tmp_path / "out" / f"{name}.jsonl") for name in ("kept", "quarantine"))
    assert [(row["file"], row["row"]) for row in kept[:2]] == [
        (str(folder / "a.jsonl"), 1),
        (str(folder / "a.jsonl"), 2),
    ]
    assert [(row["row"], row["reason"]) for row in aside] == [
        (row, "unknown_format") for row in (1, 2, 3)
    ]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "kept.jsonl",
        "quarantine.jsonl",
    ]


def test_kept_rows_can_be_ingested_again_and_are_all_kept(tmp_path):
    first = run_ingest([write(tmp_path / "a.jsonl", PAIRS)], tmp_path / "one")
    again = run_ingest([str(tmp_path / "one" / "kept.jsonl")], tmp_path / "two")
    assert (again.read, again.kept) == (first.kept, first.kept)
    ids = [[row["id"] for row in lines(tmp_path / name / "kept.jsonl")] for name in ("one", "two")]
    assert ids[0] == ids[1]


def test_unknown_columns_of_a_named_file_are_an_error_and_nothing_is_written(tmp_path):
    write(tmp_path / "a.jsonl", PAIRS)
    with pytest.raises(DataError, match=r"match no known format\. "):
        run_ingest(
            [str(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", [{"x": 1}])], tmp_path / "out"
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_columns_can_be_renamed_and_the_format_named(tmp_path):
    table = tmp_path / "a.csv"
    lines = [f'"Was, {n}?",ja {n},nein {n}\n' for n in range(3)]
    table.write_text("".join(["frage,gut,schlecht\n", *lines]))
    names = {"frage": "prompt", "gut": "chosen", "schlecht": "rejected"}
    assert run_ingest([str(table)], tmp_path / "out", columns=names).kept == 3
    named = run_ingest([str(table)], tmp_path / "out", columns=names, format={"name": "preference"})
    assert named.files[0].reason == "named in the config"


def test_every_fault_has_its_reason_and_its_row(tmp_path):
    faults = {
        "{broken": "malformed",
        '{"prompt": "a", "chosen": true, "rejected": "c"}': "malformed",
        '{"prompt": "caf\\ufffd", "chosen": "b", "rejected": "c"}': "bad_encoding",
        '{"prompt": "a", "chosen": "\\ud800", "rejected": "c"}': "bad_encoding",
        '{"prompt": "a", "chosen": " ", "rejected": "c"}': "empty",
        '{"prompt": "a", "chosen": "b", "rejected": "b "}': "identical_pair",
        '{"prompt": "a", "chosen": "<|im_end|>", "rejected": "c"}': "turn_marker",
        '{"prompt": "a", "chosen": "I am {{name}}", "rejected": "c"}': "placeholder",
        '{"prompt": "t", "chosen": "b", "rejected": "c", "score_chosen": 1, "score_rejected": 1}': (
            "tie"
        ),
        '{"prompt": "x", "chosen": "b", "rejected": "c"}': "conflicting_label",
        '{"prompt": "x", "chosen": "c", "rejected": "b"}': "conflicting_label",
        json.dumps(PAIRS[3]): "duplicate",
    }
    source = tmp_path / "a.jsonl"
    write(source, PAIRS)
    with source.open("a") as file:
        file.writelines(line + "\n" for line in faults)
    report = run_ingest([str(source)], tmp_path / "out")
    found = {row["row"]: row["reason"] for row in lines(tmp_path / "out" / "quarantine.jsonl")}
    assert found == dict(enumerate(faults.values(), start=21))
    assert report.quarantined == Counter(faults.values())


def test_rows_that_are_long_or_repeat_a_prompt_are_flagged_and_kept(tmp_path):
    """Two more replies to question 3, one of 4,000 letters; a copy of row 1 is a duplicate."""
    again = {"prompt": "question 3?", "chosen": "sure", "rejected": "never"}
    long = {"prompt": "Question  3?", "chosen": "ja " * 1334, "rejected": "nein"}
    path = write(tmp_path / "a.jsonl", [*PAIRS, again, long, PAIRS[0]])
    report = run_ingest([path], tmp_path / "out")
    kept = lines(tmp_path / "out" / "kept.jsonl")
    assert {row["row"]: row["flags"] for row in kept if "flags" in row} == {
        21: ["repeated_prompt"],
        22: ["long", "repeated_prompt"],
    }
    assert report.flagged == report.files[0].flagged == {"long": 1, "repeated_prompt": 2}
    assert (report.read, report.kept, report.quarantined) == (23, 22, {"duplicate": 1})
    once = run_ingest([path], tmp_path / "once", max_per_prompt=1)
    assert once.flagged == {}


@pytest.mark.parametrize("packed", [False, True])
def test_the_total_of_rows_is_estimated_from_the_bytes_read(tmp_path, packed):
    """3,000 rows in two files, reported after each 1,000: within a tenth of the true total.

    The second file is not yet open when the first thousand rows are read.
    """
    paths = [tmp_path / f"{name}.jsonl{'.gz' if packed else ''}" for name in "ab"]
    for path, rows in zip(paths, (2000, 1000), strict=True):
        text = "".join(
            json.dumps({"instruction": f"{path.name} {n:04}", "output": "x" * 400}) + "\n"
            for n in range(rows)
        )
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    reports = []
    ingest(
        list(map(str, paths)),
        IngestOptions(near_duplicates=1.0),
        out=tmp_path / "out",
        on_progress=lambda *report: reports.append(report),
    )
    reading = [(done, total) for phase, done, total in reports if phase == "reading"]
    assert [done for done, _ in reading] == [1000, 2000, 3000]
    assert reading[-1] == (3000, 3000)
    assert all(done <= total for done, total in reading)
    if not packed:  # a compressed file of a few kB is read all at once
        assert all(2700 <= total <= 3300 for _, total in reading)
    assert ("writing", 3000, 3000) in reports


def test_an_output_folder_that_cannot_be_created_is_one_error(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(StorageError, match=r"out cannot be written: .*Choose another --out"):
        run_ingest([write(tmp_path / "a.jsonl", PAIRS)], tmp_path / "out")


def test_an_interrupted_call_reuses_its_finished_shards(tmp_path, monkeypatch):
    """Interrupted in the third of four shards of 30 rows; the next call filters only two."""
    monkeypatch.setattr("alignment.data.build.shards.SHARD", 30)
    monkeypatch.setattr("alignment.data.build.shards.BATCH", 10)
    rows = [{**PAIRS[0], "prompt": f"Question {n}?", "chosen": f"{n}"} for n in range(120)]
    source = write(tmp_path / "a.jsonl", rows)
    out = tmp_path / "out"

    def stop(_, done, __):
        if done == 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([source], IngestOptions(), out=out, on_progress=stop)
    assert not (out / "kept.jsonl").exists()
    again: list[int] = []
    report = ingest(
        [source], IngestOptions(), out=out, on_progress=lambda _, done, __: again.append(done)
    )
    assert again[:3] == [30, 60, 70]  # two finished shards, then batches of ten
    assert (report.read, report.kept) == (120, 120)
    fresh = run_ingest([source], tmp_path / "fresh")
    assert fresh == report
    for name in ("kept.jsonl", "quarantine.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


# --- bytes --------------------------------------------------------------------------------------


def test_a_line_beyond_the_limit_is_quarantined_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "MAX_ROW", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": 1}}\n{{"a": "{"x" * 300_000}"}}\n{{"a": 2}}\n')
    rows = list(files.read(str(path), Meter()))
    assert [number for number, _ in rows] == [1, 2, 3]
    assert isinstance(rows[1][1], Rejected)
    assert (rows[0][1], rows[2][1]) == ({"a": 1}, {"a": 2})


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (f'{{"a": "{"x" * 300_000}', r"a\.json line 2: .*item of more than 1000 characters"),
        ('{"a":' * 100_000, r"a\.json line 2: .*nested too deeply"),
    ],
)
def test_an_unreadable_item_of_a_list_is_one_error_with_its_line(
    tmp_path, monkeypatch, item, problem
):
    monkeypatch.setattr(json_rows, "MAX_ROW", 1000)
    (tmp_path / "a.json").write_text(f'[{{"a": 1}},\n{item}')
    with pytest.raises(DataError, match=problem):
        list(files.read(str(tmp_path / "a.json"), Meter()))


def test_a_bad_byte_in_a_list_quarantines_only_its_row(tmp_path):
    content = json.dumps(PAIRS[:3], ensure_ascii=False).encode().replace(b"yes 1", b"yes \xff1")
    (tmp_path / "a.json").write_bytes(content)
    report = run_ingest([str(tmp_path / "a.json")], tmp_path / "out")
    assert (report.kept, report.quarantined) == (2, {"bad_encoding": 1})


def test_gzip_and_zstandard_files_are_read(tmp_path):
    import pyarrow

    text = "".join(json.dumps(row) + "\n" for row in PAIRS).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    with pyarrow.CompressedOutputStream(str(tmp_path / "b.jsonl.zst"), "zstd") as packed:
        packed.write(text)
    report = run_ingest([str(tmp_path)], tmp_path / "out")
    assert [file.kept for file in report.files] == [20, 0]
    assert report.quarantined == {"duplicate": 20}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.dictionaries(st.text(), JSON), min_size=1), indent=st.sampled_from([None, 1])
)
def test_a_json_list_is_read_as_the_library_reads_it(tmp_path_factory, rows, indent):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    read = [row for _, row in files.read(str(path), Meter())]
    assert json.dumps(read) == json.dumps(rows)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.sampled_from([".jsonl", ".json", ".csv", ".xlsx", ".parquet"]))
def test_any_bytes_are_rows_or_one_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"a{suffix}"
    path.write_bytes(content)
    problem, rows = None, []
    try:
        rows = list(files.read(str(path), Meter()))
    except DataError as error:
        problem = str(error)
    assert problem is None or (path.name in problem and "\n" not in problem)
    assert all(isinstance(row, dict | Rejected) for _, row in rows)


# --- corrupted rows -----------------------------------------------------------------------------

ODD: list[object] = [
    None,
    True,
    7,
    1e999,
    "",
    " ",
    "\ud800",
    "\0",
    "<|im_start|>",
    [],
    {},
    [[]],
    [None],
    {"role": "user"},
    {"from": "gpt", "value": None},
    [{"role": "assistant", "content": [{"type": "image"}]}],
    [{"role": "user", "content": "a", "tool_calls": "{"}],
    "é" * 5000,
]

COLUMNS = ["label", "messages", "tools", "\ud800", "metadata", "system", "history", "functions"]
COLUMNS += ["context", "category", "text", "contents", "rejected_response", "score", "winner"]


def mutated(value, draw):
    """A JSON value with one item changed, added, removed or doubled."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.2:
        return draw.choice(ODD)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        new = [[], [value[at]] * 2, [mutated(value[at], draw)], [draw.choice(ODD)]]
        return [*value[:at], *draw.choice(new), *value[at + 1 :]]
    name = draw.choice(list(value))
    changed = dict(value)
    action = draw.randrange(4)
    if action == 0:
        del changed[name]
    elif action == 1:
        changed[draw.choice(COLUMNS)] = changed.pop(name)
    else:
        changed[name] = mutated(changed[name], draw)
    return changed


def corrupted(row, draw):
    """A line of a file: the row with changes to its values, text or bytes."""
    for _ in range(draw.randrange(1, 4)):
        row = mutated(row, draw)
    line = json.dumps(row).encode()
    kind = draw.random()
    if kind < 0.1:
        line = line[: draw.randrange(len(line) + 1)]
    elif kind < 0.2:
        at = draw.randrange(len(line) + 1)
        line = line[:at] + draw.randbytes(2) + line[at:]
    return line.replace(b"\n", b" ").replace(b"\r", b" ") or b"{}"


def samples():
    """One row in every format."""
    from tests.alignment.data.formats.examples import EXAMPLES

    return {name: row for name, (row, _) in EXAMPLES.items()}


@pytest.mark.parametrize(
    "rows", [1_500, pytest.param(100_000, marks=pytest.mark.slow)], ids=["a sample", "100,000"]
)
def test_corrupted_rows_are_kept_or_quarantined_and_never_lost(tmp_path, rows):
    """No error, and every line is in one of the two files; read = kept + quarantined."""
    draw = random.Random(0)
    for name, sample in samples().items():
        path = tmp_path / f"{name}.jsonl"
        good = json.dumps(sample).encode()
        count = -(-rows // len(samples()))
        body = [good] * 20 + [corrupted(sample, draw) for _ in range(count)]
        path.write_bytes(b"".join(line + b"\n" for line in body))
        out = tmp_path / name
        report = run_ingest([str(path)], out)
        kept, aside = lines(out / "kept.jsonl"), lines(out / "quarantine.jsonl")
        assert (len(kept), len(aside)) == (report.kept, report.read - report.kept)
        places = {row["row"] for row in (*kept, *aside)}
        blank = {at for at, line in enumerate(body, start=1) if not line.strip()}
        assert places == set(range(1, len(body) + 1)) - blank, name
        assert all(row["reason"] for row in aside)
