"""The complete benchmark of merge and stack, on the tiny model and the practice set."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import Interrupted
from benchmarks import compose
from benchmarks.stage import Stage


@pytest.fixture(scope="module")
def arguments(tiny_model_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("compose")
    sizes = ["--rows", "24", "--steps", "3", "--max-length", "256", "--scale", "500"]
    engine = ["--engine", "packed", "--set-engine", "fuse_adapters=true", "--per-device", "16"]
    return ["--model", str(tiny_model_folder), "--fp32", *sizes, *engine, "--out", str(out)]


@pytest.fixture(scope="module")
def found(arguments):
    with pytest.raises(Interrupted, match="time limit reached before base of merge bf16, seed 0"):
        compose.main([*arguments, "--minutes", "0"])
    first = compose.main([*arguments, "--arms", "stack", "--last", "sft"])
    assert [(stage.arm, stage.stage) for stage in first] == [("stack", "sft")]
    both = compose.main(arguments)
    assert first[0] in both, "found in the folder, not measured again"
    return both


@pytest.mark.slow
def test_every_stage_of_both_arms_is_measured(found):
    stages = ["sft", "dpo-1", "dpo-2", "dpo-3", "dpo-4"]
    assert [(s.arm, s.stage) for s in found] == [
        *(("merge bf16", stage) for stage in stages),
        *(("stack", stage) for stage in stages),
    ]


@pytest.mark.slow
def test_a_stack_hands_over_what_was_trained_and_a_merge_does_not(found):
    for stage in found:
        trained, start = stage.views["trained"], stage.views["start"]
        if stage.arm == "stack":
            assert trained == start
            assert (stage.written > 0) == (stage.stage == "sft"), "the base in four bits, once"
            assert stage.handover["mean_abs_logprob"] == 0
        else:
            assert trained.nll != start.nll
            assert stage.written > 0
            assert 0 < stage.handover["kept_share"] < 1.2


@pytest.mark.slow
def test_what_was_measured_is_written_and_not_measured_again(found, arguments):
    """The seconds in every row come from the store: a rebuilt step would have others."""
    out = Path(arguments[-1])
    written = json.loads((out / "results.json").read_text())
    assert [Stage.model_validate(row) for row in written["stages"]] == found
    assert (out / "compose.png").stat().st_size > 1000
    assert compose.main(arguments) == found


def test_fields_of_the_engine_reach_both_trainings(arguments):
    asked = compose._parser().parse_args(
        [*arguments, "--set-engine", "recompute=0.5", "fuse_adapters=true", "--no-checkpointing"]
    )
    config: Any = compose.settings(asked, "stack", 0)
    for training in (config.sft.training, config.dpo):
        assert (training.engine.recompute, training.engine.fuse_adapters) == (0.5, True)
        assert training.gradient_checkpointing is False
