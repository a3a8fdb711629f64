"""Data-parallel training: two processes that share the rows of each step match one process."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from alignment.records.training import TRAINED, TrainedStep
from alignment.store.jsonl import read_rows
from tests.alignment.train.one_of_two import STEPS, train

WEIGHTS = "adapter/adapter_model.safetensors"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def history(out):
    lines = (out / "history.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


@pytest.fixture(params=["sft", "dpo", "dpo on a stack"])
def kind(request):
    return request.param


@pytest.fixture
def trained(kind, tiny_model_folder, tmp_path, make_adapter):
    """Artifacts of two real processes over gloo, and of one process with all rows."""
    method, *on_a_stack = kind.split(" on a ")
    adapters = [tmp_path / name for name in ("a", "b") if on_a_stack]
    for seed, adapter in enumerate(adapters):
        make_adapter(adapter.name, seed=seed)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank in range(2):
        folder = tmp_path / f"rank-{rank}"
        folder.mkdir()
        command = [sys.executable, "-m", "tests.alignment.train.one_of_two", method]
        processes.append(
            subprocess.Popen(
                [*command, str(tiny_model_folder), str(folder), *map(str, adapters)],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    (tmp_path / "alone").mkdir()
    alone = train(method, tiny_model_folder, tmp_path / "alone", per_device=8, adapters=adapters)
    return [tmp_path / f"rank-{rank}" / "work" / "out" for rank in range(2)], alone


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_with_all_the_rows(trained, kind):
    ranks, alone = trained
    counts = [[row["micro_batches"] for row in history(out)] for out in ranks]
    assert [found[-1] for found in counts] == [1, 0], "the last step has a single row"
    expected = history(alone)
    assert len(expected) == STEPS
    for out in ranks:
        losses = [row["loss"] for row in history(out)]
        assert losses == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    kept = {out: list(read_rows(out / TRAINED, TrainedStep)) for out in (ranks[0], alone)}
    assert not (ranks[1] / TRAINED).exists(), "the first process writes for both"
    for one, other in zip(*kept.values(), strict=True):
        assert dict(zip(one.ids, one.values, strict=True)) == pytest.approx(
            dict(zip(other.ids, other.values, strict=True)), rel=1e-3, abs=1e-5
        )
    if kind != "sft":
        margins = [row["rewards/margins"] for row in expected]
        assert margins[0] == pytest.approx(0, abs=1e-6), "the reference has the stack too"
        assert abs(margins[-1]) > 1e-3
    weights = [load_file(out / WEIGHTS) for out in (*ranks, alone)]
    for name, of_one in weights[2].items():
        assert torch.equal(weights[0][name], weights[1][name]), "both hold the same adapter"
        torch.testing.assert_close(weights[0][name], of_one, rtol=1e-4, atol=1e-6)
