"""Engine `vllm`: how its process may fail, with any interpreter; and with a real vLLM.

The slow tests need an environment with vLLM; VLLM_PYTHON names its interpreter.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from alignment.answers import vllm_program
from alignment.answers.answer import Answer
from alignment.answers.ask import answers
from alignment.answers.settings import OwnEngine, Sampling, Vllm
from alignment.answers.vllm import Served, vllm_answers
from alignment.candidates.records import CandidatePrompt
from alignment.candidates.write import write_answers
from alignment.errors import AlignmentError, ConfigError, Interrupted, ModelError
from alignment.models.adapters import describe_adapter
from alignment.models.description import describe
from alignment.records.refs import ModelRef
from alignment.store.progress import Progress
from alignment.store.store import Store
from alignment.store.workspace import Workspace
from tests.alignment.answers.test_engines import SHAPE, amplify, asked
from tests.alignment.candidates.test_own_round import Run
from tests.own_answers import own_settings

GREEDY = Sampling(max_new_tokens=12)
DRAWN = Sampling(max_new_tokens=12, samples=3, temperature=0.8, top_p=0.95, top_k=50, seed=1)
WIDER = {**SHAPE, "hidden_size": 128, "intermediate_size": 256}
"""vLLM's attention takes heads of 32 numbers and more."""


def by_name(found):
    return {(one.prompt_id, one.sample): one for one in found}


# --- with any interpreter ------------------------------------------------------------------------


@pytest.fixture
def ending(tmp_path):
    """A function that writes a program in an interpreter's place: it ends as told when it is to
    answer, and passes for one with vLLM before."""

    def write(commands):
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\n[ "$2" = -c ] && exit 0\n{commands}\n')
        program.chmod(0o755)
        return Vllm(name="vllm", python=program)

    return write


def ask(engine, folder, tokenizer):
    return list(vllm_answers(engine, Served(folder, "float32"), tokenizer, asked(2), GREEDY))


@pytest.mark.parametrize(
    ("python", "why"),
    [
        ("/nowhere/bin/python", "does not run as an interpreter .*No such file"),
        (sys.executable, "has no vLLM"),
        ("/bin/false", "is no Python interpreter"),
    ],
)
def test_an_interpreter_without_vllm_is_refused_with_advice(
    python, why, tiny_model_folder, chatml_tokenizer
):
    with pytest.raises(ConfigError, match=rf"engine.python: {python} {why}.*pip install vllm"):
        ask(Vllm(name="vllm", python=Path(python)), tiny_model_folder, chatml_tokenizer)


def test_a_killed_process_ends_the_step_so_that_it_can_go_on(
    ending, tiny_model_folder, chatml_tokenizer
):
    with pytest.raises(Interrupted, match=r"ended by SIGKILL .*goes on after the last answer"):
        ask(ending("kill -9 $$"), tiny_model_folder, chatml_tokenizer)


@pytest.mark.parametrize(
    ("says", "error", "match"),
    [
        ("ValueError: heads of 7", ModelError, r"it says: ValueError: heads of 7 or so\. Set eng"),
        ("torch.OutOfMemoryError: CUDA out of memory", AlignmentError, "ran out of memory: torch"),
        ("Illegal instruction", ModelError, "it says: before Illegal instruction or so"),
    ],
)
def test_its_last_words_are_in_the_error(
    ending, says, error, match, tiny_model_folder, chatml_tokenizer
):
    engine = ending(f"echo before; echo '{says}' >&2; echo or so; exit 1")
    with pytest.raises(error, match=match):
        ask(engine, tiny_model_folder, chatml_tokenizer)


def test_an_answer_left_out_is_an_error(ending, tiny_model_folder, chatml_tokenizer):
    with pytest.raises(AlignmentError, match="2 answers were not written"):
        ask(ending("exit 0"), tiny_model_folder, chatml_tokenizer)


@pytest.mark.parametrize(("seen", "shown"), [(None, "1"), ("4,GPU-a", "GPU-a")])
def test_its_process_sees_the_gpu_of_the_step_alone_and_no_group(monkeypatch, seen, shown):
    before = {"RANK": "1", "WORLD_SIZE": "2", **({"CUDA_VISIBLE_DEVICES": seen} if seen else {})}
    monkeypatch.setattr(os, "environ", before)
    vllm_program._set_environment(1)
    assert before["CUDA_VISIBLE_DEVICES"] == shown
    assert not before.keys() & {"RANK", "WORLD_SIZE"}


# --- with vLLM -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    """The engine in the environment that VLLM_PYTHON names."""
    python = os.environ.get("VLLM_PYTHON")
    if not python:
        pytest.skip("VLLM_PYTHON names no interpreter with vLLM")
    return Vllm(name="vllm", python=Path(python))


@pytest.fixture(scope="module")
def make(chatml_tokenizer, tmp_path_factory):
    """A function that makes a small model of a family: in memory, and its folder."""

    def write(config=Qwen2Config):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config(vocab_size=len(chatml_tokenizer), **WIDER), dtype=torch.float32
        )
        amplify(model)
        folder = tmp_path_factory.mktemp("vllm") / "model"
        model.save_pretrained(folder)
        chatml_tokenizer.save_pretrained(folder)
        return model, folder

    return write


def same(found, expected):
    """Whether two sets of answers are the same but for the last digits of log-probabilities."""
    assert {name: (a.text, a.tokens, a.stopped, a.seed) for name, a in found.items()} == {
        name: (a.text, a.tokens, a.stopped, a.seed) for name, a in expected.items()
    }
    assert [found[name].logprob for name in expected] == pytest.approx(
        [one.logprob for one in expected.values()], abs=1e-3
    )
    return True


@pytest.mark.slow
@pytest.mark.parametrize("family", [Qwen2Config, LlamaConfig])
def test_vllm_writes_what_hf_writes(engine, make, family, chatml_tokenizer, monkeypatch, tmp_path):
    """Greedy, 64 prompts, fp32; the folder's settings, which vLLM reads, change nothing."""
    model, folder = make(family)
    model.generation_config.eos_token_id = stops = [2, 90, 300]
    expected = by_name(answers(model, chatml_tokenizer, asked(64), GREEDY, engine="hf"))
    theirs = {"max_new_tokens": 3, "repetition_penalty": 2.0, "temperature": 5.0, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops, **theirs}))
    monkeypatch.setenv("HOME", str(tmp_path))
    served = Served(folder, "float32")
    found = by_name(vllm_answers(engine, served, chatml_tokenizer, asked(64), GREEDY))
    assert same(found, expected)
    assert len({one.text for one in found.values()}) > 40
    assert {one.stopped for one in found.values()} == {True, False}
    assert not list(tmp_path.rglob("usage_stats.json"))


@pytest.mark.slow
def test_draws_depend_on_prompt_and_sample_and_seed_alone(engine, make, chatml_tokenizer):
    _, folder = make()
    ask = partial(vllm_answers, engine, Served(folder, "float32"), chatml_tokenizer)
    whole = by_name(ask(asked(10), DRAWN))
    done = [name for n, name in enumerate(whole) if n % 3]
    rest = by_name(ask(asked(10)[::-1], DRAWN, rows=2, done=done))
    assert rest.keys() == whole.keys() - set(done)
    assert same(rest, {name: whole[name] for name in rest})
    assert len({one.text for one in whole.values()}) > 25
    other = by_name(ask(asked(3), DRAWN.model_copy(update={"seed": 2})))
    assert all(one.text != whole[name].text for name, one in other.items())


@pytest.mark.slow
def test_a_stack_of_adapters_takes_part(engine, make, tmp_path):
    """Two adapters, of ranks that vLLM does not know, together as with hf, and unlike none."""
    _, folder = make()
    base, tokenizer = describe(folder, f"folder:{folder}", None)
    plain = ModelRef(base=base, tokenizer=tokenizer)
    one, two = (adapter(folder, tmp_path / f"{seed}", seed) for seed in (1, 2))
    prompts = [
        CandidatePrompt(id=name, prompt=messages, task_type="", source="")
        for name, messages in asked(20)
    ]

    def written(name, ref, engine):
        workspace = Workspace(folder=tmp_path / name, log=tmp_path / "log")
        workspace.out.mkdir(parents=True)
        return by_name(
            write_answers(
                Store(root=tmp_path),
                ref,
                prompts,
                GREEDY,
                workspace,
                Progress(),
                dtype="float32",
                engine=engine,
            )
        )

    ref = plain.push(one).push(two)
    stacked = written("hf", ref, OwnEngine())
    assert same(written("vllm", ref, engine), stacked)
    without = written("plain", plain, OwnEngine())
    assert all(stacked[name].text != answer.text for name, answer in without.items())


def adapter(folder, to, seed):
    """A LoRA adapter of the model in a folder, both factors random."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layers = ["q_proj", "v_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=3 * seed, lora_alpha=8, target_modules=layers, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(to)
    return describe_adapter(to, uri=f"folder:{to}", stage=f"dpo-{seed}", trained_on="")


@pytest.mark.slow
def test_what_vllm_refuses_is_in_the_error(engine, tiny_model_folder, chatml_tokenizer):
    """Its attention has no heads of 8 numbers."""
    with pytest.raises(ModelError, match=r"vLLM cannot answer with the model in .*head"):
        ask(engine, tiny_model_folder, chatml_tokenizer)


@pytest.mark.slow
def test_a_model_without_numbers_is_an_error(engine, make, chatml_tokenizer):
    _, folder = make()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AlignmentError, match=r"computes no numbers: .* is nan"):
        ask(engine, folder, chatml_tokenizer)


@pytest.mark.slow
def test_killed_vllm_loses_no_answer_and_repeats_none(engine, make, chatml_tokenizer):
    _, folder = make()
    sampling = Sampling(max_new_tokens=200, samples=2, temperature=1.0)
    ask = partial(
        vllm_answers, engine, Served(folder, "float32"), chatml_tokenizer, asked(8), sampling
    )
    found = dict[tuple[str, int], Answer]()

    def killed():
        for one in ask(rows=2):
            found[one.prompt_id, one.sample] = one
            for child in psutil.Process().children():
                child.kill()

    with pytest.raises(Interrupted, match="ended by SIGKILL"):
        killed()
    assert 0 < len(found) < 16
    rest = by_name(ask(done=found))
    assert len(rest) + len(found) == 16
    assert not rest.keys() & found.keys()


BUILD = """
import sys, json
from tests.alignment.candidates.test_own_round import Run
from tests.faults.failpoints import arm
arm("kill", name="journal.append:after", nth=30)
Run(json.loads(sys.argv[1])).build("answers-1")
"""


@pytest.mark.slow
def test_a_killed_step_goes_on_after_its_last_answer_and_leaves_no_process(engine, make, tmp_path):
    _, folder = make()
    settings = own_settings(folder, tmp_path)
    settings["rounds"][0]["data"]["engine"] = engine.model_dump(mode="json")
    whole = Run(settings)
    whole.build("answers-1")
    expected = by_name(whole.rows("answers-1", Answer))
    settings["store"] += "-killed"
    child = subprocess.Popen(
        [sys.executable, "-c", BUILD, json.dumps(settings)], start_new_session=True
    )
    assert child.wait() == -signal.SIGKILL
    until = time.monotonic() + 20
    while in_session(child.pid):
        assert time.monotonic() < until, "vLLM goes on without the step"
        time.sleep(0.1)
    run = Run(settings)
    rows = run.store.workspace(run.steps["answers-1"].key).out / "rows.jsonl"
    before = rows.read_text()
    assert before.count("\n") == 30
    run.build("answers-1")
    found = run.rows("answers-1", Answer)
    assert (run.store.folder(run.steps["answers-1"].key) / "rows.jsonl").read_text()[
        : len(before)
    ] == before
    assert len(found) == 72
    assert same(by_name(found), expected)


def in_session(session):
    """The living processes of a session."""
    alive = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(OSError):
            if os.getsid(process.pid) == session and process.info["status"] != "zombie":
                alive.append(process.pid)
    return alive
