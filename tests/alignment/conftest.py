"""One finished run of the whole chain, and small parts of it to build tests from."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.records.manifest import StageRecord
from alignment.store.progress import Progress
from alignment.store.store import Store
from alignment.store.workspace import Workspace
from tests import tiny


@dataclass(frozen=True)
class Finished:
    """A chain that has run to its end. Its store is shared: read it, copy it, do not change it."""

    config: PipelineConfig
    chain: Chain
    store: Store
    records: dict[str, StageRecord]
    """By the step's name."""


@pytest.fixture(scope="session")
def finished(tiny_model_folder, tmp_path_factory):
    """SFT, two rounds of DPO and a control on the tiny model, each step as a scheduler runs it.

    Two epochs, so that training has 10 and 8 steps, and an evaluation at every third. Two steps
    at a time where both have what they need: most of the time goes into starting processes.
    """
    from alignment.execution.run_step import run_step

    root = tmp_path_factory.mktemp("finished") / "store"
    settings = tiny.settings(tiny_model_folder, root)
    settings["sft"]["training"].update(epochs=2, evaluate_every=3)
    settings["dpo"].update(epochs=2, evaluate_every=3)
    for data in (settings["sft"]["data"], *(round_["data"] for round_ in settings["rounds"])):
        data["held_out_share"] = 0.2
    config = PipelineConfig.model_validate(settings)
    steps, store = chain(config), Store(root=root)
    futures: dict[str, Future[StageRecord]] = {}

    def run(step):
        wait([futures[parent] for parent in step.roles.values()])
        return run_step(store, step)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for step in steps.steps():  # parents come first, so whoever waits waits for one at work
            futures[step.key] = pool.submit(run, step)
    records = {step.name: futures[step.key].result() for step in steps.steps()}
    return Finished(config=config, chain=steps, store=store, records=records)


@pytest.fixture(scope="session")
def stacked(finished, tmp_path_factory):
    """The finished run under `compose: stack`: its data and SFT training, the rest anew.

    Rounds are trained by processes of their own, as a scheduler does; the rest is built here.
    """
    from alignment.execution.run_step import build, run_step

    root = tmp_path_factory.mktemp("stacked") / "store"
    settings = finished.config.model_dump(mode="json")
    settings.update(store=str(root), compose={"name": "stack"}, control=None)
    config = PipelineConfig.model_validate(settings)
    steps, store = chain(config), Store(root=root)
    for key in {step.key for step in steps.steps()} & set(finished.store.list_keys()):
        shutil.copytree(finished.store.folder(key), store.folder(key))
    records = {}
    for step in steps.steps():
        trains = step.stage == "dpo"
        made = run_step(store, step) if trains else build(store, step, Progress())
        records[step.name] = made
    return Finished(config=config, chain=steps, store=store, records=records)


@pytest.fixture(scope="session")
def tiny_ref(tiny_model_folder):
    """The reference to the tiny model where it lies."""
    from alignment.models.description import describe
    from alignment.records.refs import ModelRef

    base, tokenizer = describe(tiny_model_folder, f"folder:{tiny_model_folder}", None)
    return ModelRef(base=base, tokenizer=tokenizer)


@pytest.fixture
def open_tiny(tiny_ref, tmp_path):
    """A function that gives the tiny model afresh, in fp32."""
    from alignment.models.load import open_model

    return lambda ref=tiny_ref: open_model(ref, Store(root=tmp_path), dtype="float32")


@pytest.fixture
def make_adapter(tiny_model_folder, tmp_path):
    """A function that writes a LoRA adapter of the tiny model, both factors random: a reference."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from alignment.models.adapters import describe_adapter

    def make(name, *, seed, scale=0.2, r=4, alpha=8, trained_on="", **options):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
        lora = LoraConfig(
            r=r,
            lora_alpha=alpha,
            target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
            **options,
        )
        adapted = get_peft_model(model, lora)
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=scale)
        folder = tmp_path / name
        adapted.save_pretrained(folder)
        return describe_adapter(folder, uri=f"folder:{folder}", stage=name, trained_on=trained_on)

    return make


@pytest.fixture
def workspace(tmp_path):
    """An empty place to build something in."""
    made = Workspace(folder=tmp_path / "work", log=tmp_path / "work.log")
    made.out.mkdir(parents=True)
    return made


@pytest.fixture(scope="session")
def pairs():
    """Eight practice pairs."""
    from alignment.data.practice.source import PracticeSource

    return list(PracticeSource(part="round-1", rows=8).pairs())


@pytest.fixture(scope="session")
def conversations():
    """Eight practice conversations."""
    from alignment.data.practice.source import PracticeSource

    return list(PracticeSource(part="sft", rows=8).conversations())


@pytest.fixture
def adapted(open_tiny, make_adapter):
    """The tiny model with a non-zero adapter, wrapped by PEFT as in a trainer."""
    from peft import PeftModel

    loaded = open_tiny()
    folder = make_adapter("a", seed=1).uri.removeprefix("folder:")
    return replace(loaded, model=PeftModel.from_pretrained(loaded.model, folder).eval())
