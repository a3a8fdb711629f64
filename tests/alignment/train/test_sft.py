import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing

from alignment.data.formats import chosen_conversation
from alignment.errors import DataError, Interrupted, TrainingError
from alignment.models.chat_template import end_of_turn_id, render
from alignment.models.encoding import encode_completion
from alignment.records.refs import Nf4
from alignment.scoring.engine import Packed, Stock
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from alignment.train.settings import SftConfig
from alignment.train.sft import train_sft
from tests.chats import conversation, pair, talk

both_engines = pytest.mark.parametrize(
    "engine", [Stock(), Packed(tokens_per_micro_batch=150)], ids=lambda engine: engine.name
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(config, loaded, conversations, workspace, *, held_out=(), progress=None):
    return train_sft(
        config,
        policy=loaded,
        conversations=conversations,
        held_out=held_out,
        seed=0,
        workspace=workspace,
        progress=progress or Progress(),
    )


@pytest.fixture
def learnt(open_tiny, conversations, sft_trainer):
    """(ids, labels) of every row of the batches that the real trainer will train on."""
    loaded = open_tiny()
    trainer = sft_trainer(loaded, conversations)
    return loaded.tokenizer, [
        (ids[mask.bool()].tolist(), labels.tolist(), mask.sum().item())
        for batch in trainer.get_train_dataloader()
        for ids, labels, mask in zip(
            batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
        )
    ]


def test_the_closing_token_is_trained_although_it_is_also_the_padding(learnt):
    """Every reply's last target is <|im_end|>, which is this tokenizer's padding token, too."""
    tokenizer, rows = learnt
    stop = end_of_turn_id(tokenizer)
    assert stop == tokenizer.pad_token_id == tokenizer.eos_token_id
    assert len({length for *_, length in rows}) > 1, "without padding the test says nothing"
    for ids, labels, length in rows:
        targets = [label for label in labels if label != -100]
        assert targets[-1] == stop
        assert targets.count(stop) == 1, "of three <|im_end|> in a chat the assistant's alone"
        assert ids.count(stop) == 3
        assert set(labels[length:]) <= {-100}, "and never the padding"


def test_the_targets_are_the_assistants_words_and_nothing_else(learnt, conversations):
    tokenizer, rows = learnt
    found = sorted(tokenizer.decode([t for t in labels if t != -100]) for _, labels, _ in rows)
    assert found == sorted(f"{row.messages[-1].content}<|im_end|>" for row in conversations)


def test_each_batch_row_is_one_whole_conversation(learnt, conversations):
    """No packing: a token cannot attend to another conversation. No doubled <|im_end|>."""
    tokenizer, rows = learnt
    rendered = [
        tokenizer.apply_chat_template([m.model_dump() for m in row.messages], tokenize=False)
        for row in conversations
    ]
    assert sorted(tokenizer.decode(ids) for ids, *_ in rows) == sorted(
        text.rstrip("\n") for text in rendered
    )


@pytest.fixture
def trained(open_tiny, sft_config, conversations, workspace):
    """A summary of three steps, evaluated at every second, and the files beside it."""
    config = sft_config.model_copy(update={"max_steps": 3, "evaluate_every": 2, "samples": 1})
    summary = train(config, open_tiny(), conversations, workspace, held_out=conversations[:2])
    return summary, workspace.out


@both_engines
def test_a_run_leaves_adapter_history_and_samples(trained):
    summary, out = trained
    history = lines(out / "history.jsonl")
    losses = [row["loss"] for row in history if "loss" in row]
    assert summary.steps == len(losses) == 3
    assert summary.loss == losses[-1], "the last tenth of three steps is the last one"
    evaluations = {row["step"]: row["eval_loss"] for row in history if "eval_loss" in row}
    assert list(evaluations) == [2, 3], "every second step, and after the last"
    assert summary.evaluation["eval_loss"] == evaluations[3]
    samples = [row["step"] for row in lines(out / "samples.jsonl")]
    assert samples == [0, 2, 3], "before the first step, and at each evaluation"
    assert sorted(path.name for path in (out / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@both_engines
def test_watching_a_training_changes_no_step_of_it(
    open_tiny, sft_config, conversations, tmp_path, engine
):
    """Evaluated at every fourth of eight steps, or never: with dropout, the same losses."""
    lora = sft_config.lora.model_copy(update={"dropout": 0.3})
    settings = {"max_steps": 8, "engine": engine, "lora": lora}
    losses: list[list[float]] = []
    for watched in ({"evaluate_every": 0.25, "samples": 1}, {"evaluate_every": None}):
        config = sft_config.model_copy(update=settings | watched)
        folder = tmp_path / str(len(losses))
        workspace = Workspace(folder=folder, log=folder / "log")
        workspace.out.mkdir(parents=True)
        train(config, open_tiny(), conversations, workspace, held_out=conversations[:2])
        history = lines(workspace.out / "history.jsonl")
        losses.append([row["loss"] for row in history if "loss" in row])
        evaluated = [row["step"] for row in history if "eval_loss" in row]
        assert evaluated == ([2, 4, 6, 8] if "samples" in watched else [8])
    assert losses[0] == losses[1]


def test_the_adapter_names_the_base_that_plain_peft_loads_below_it(trained, open_tiny):
    from peft import AutoPeftModelForCausalLM

    _, out = trained
    model = AutoPeftModelForCausalLM.from_pretrained(str(out / "adapter"))
    loaded = open_tiny()
    assert model.peft_config["default"].base_model_name_or_path == loaded.model.name_or_path
    below = model.unload().state_dict()
    assert below.keys() == loaded.model.state_dict().keys()
    assert all(torch.equal(below[name], t) for name, t in loaded.model.state_dict().items())


def test_the_adapters_settings_are_the_same_bytes_in_every_process(trained):
    """PEFT writes the modules in the order of a set; see findings/peft-target-modules-order.sh."""
    _, out = trained
    settings = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert len(settings["target_modules"]) == 7


def test_the_trainable_share_is_the_adapters(trained):
    """r 4 on seven layers of each of two blocks, hidden 32, heads 4 x 8, key/value 2 x 8, MLP 64.

    q, o: 4 (32 + 32) = 256 each; k, v: 4 (32 + 16) = 192; gate, up, down: 4 (32 + 64) = 384.
    Two blocks: 2 (2 * 256 + 2 * 192 + 3 * 384) = 2 * 2,048 = 4,096.
    """
    summary, out = trained
    stored = load_file(out / "adapter" / "adapter_model.safetensors")
    assert summary.trainable == 4096 == sum(tensor.numel() for tensor in stored.values())
    assert summary.trainable < summary.parameters / 5


@both_engines
def test_the_loss_is_the_mean_over_the_targets_of_the_batch(
    open_tiny, sft_config, conversations, workspace
):
    """The first loss, before any update, against an explicit log-softmax. Dropout off."""
    lora = sft_config.lora.model_copy(update={"dropout": 0.0})
    config = sft_config.model_copy(update={"max_steps": 1, "lora": lora})
    train(config, open_tiny(), conversations[:4], workspace)
    loaded, losses = open_tiny(), []
    for row in conversations[:4]:
        chat = [message.model_dump() for message in row.messages]
        text = loaded.tokenizer.apply_chat_template(chat, tokenize=False).rstrip("\n")
        before = text[: text.rindex("<|im_start|>assistant\n") + len("<|im_start|>assistant\n")]
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        start = len(loaded.tokenizer(before, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([ids])).logits[0].double()
        logprobs = logits.log_softmax(-1)
        losses += [-logprobs[at - 1, ids[at]].item() for at in range(start, len(ids))]
    (first, *_) = lines(workspace.out / "history.jsonl")
    assert first["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@both_engines
def test_a_loss_that_is_not_a_number_ends_the_run(open_tiny, sft_config, conversations, workspace):
    """The trainer library would log 0.0 instead and continue."""
    loaded = open_tiny()
    with torch.no_grad():
        loaded.model.model.norm.weight[0] = math.nan
    with pytest.raises(TrainingError, match="the loss is nan at step 1") as ended:
        train(sft_config, loaded, conversations, workspace)
    assert not (workspace.out / "adapter").exists()
    if isinstance(sft_config.engine, Packed):
        assert "because of 4 of its 4 rows" in str(ended.value)
    else:
        assert "sft-dpo trace work --step 1 names those of this step" in str(ended.value)
        (step,) = lines(workspace.out / "trained.jsonl")
        assert step["values"] == [None] * 4


@both_engines
def test_a_stopped_run_saves_a_checkpoint_and_reports_its_step(
    open_tiny, sft_config, conversations, workspace
):
    """Two steps of an epoch of 8 rows in fours; asked to stop before the first ends."""
    progress = Progress()
    progress.ask_to_stop()
    with pytest.raises(Interrupted, match="stopped at step 1 of 2"):
        train(sft_config, open_tiny(), conversations, workspace, progress=progress)
    assert [path.name for path in workspace.checkpoints.iterdir()] == ["step-00000001"]
    assert not (workspace.out / "adapter").exists()


def test_a_conversation_without_a_target_is_refused_before_training(
    open_tiny, sft_config, workspace
):
    """The question fills the whole row."""
    row = conversation(talk("Question " * 200, "yes"))
    with pytest.raises(DataError, match=f"conversation {row.id} .*its first reply begins after"):
        train(sft_config, open_tiny(), [row], workspace)


@pytest.mark.parametrize("reply", ["\n\nyes", "yes"])
@both_engines
def test_the_trainers_own_rows_are_those_of_the_encoder(open_tiny, sft_trainer, dpo_trainer, reply):
    """Also where TRL would put the line break that begins a reply into its prompt."""
    row, loaded = pair(talk("Question"), chosen=reply, rejected="no"), open_tiny()
    given = render(loaded.tokenizer, row.prompt, add_generation_prompt=True)
    said = encode_completion(loaded.tokenizer, row.prompt, row.chosen).ids[len(given) :]
    (batch,) = sft_trainer(loaded, [chosen_conversation(row)]).get_train_dataloader()
    assert batch["input_ids"].tolist() == [[*given, *said]]
    assert batch["labels"].tolist() == [[*[-100] * len(given), *said]]
    batch = next(iter(dpo_trainer(open_tiny(), [row]).get_train_dataloader()))
    assert batch["input_ids"][0].tolist()[: len(given) + len(said)] == [*given, *said]
    assert batch["completion_mask"].sum(1).tolist()[0] == len(said)


def test_a_bos_token_that_the_template_writes_stays_the_only_one(
    chatml_tokenizer, open_tiny, sft_trainer
):
    """Llama-3 and Gemma: the template writes the token that the tokenizer would add, too."""
    loaded = open_tiny()
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert tokenizer("a")["input_ids"][0] == 0
    rows = sft_trainer(replace(loaded, tokenizer=tokenizer), [conversation(talk("Hi", "Hello."))])
    (batch,) = rows.get_train_dataloader()
    (ids,) = batch["input_ids"].tolist()
    assert ids.count(0) == 1
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(ids[-1]) == 3, "no stop token is appended to those of the three turns"


@both_engines
def test_adapter_weights_are_fp32_on_a_quantised_base(
    open_tiny, tiny_ref, sft_config, conversations, workspace
):
    """Two steps on an NF4 base on the CPU. The trainer library leaves the adapter in bfloat16."""
    quantised = tiny_ref.model_copy(update={"quantisation": Nf4(compute_dtype="float32")})
    config = sft_config.model_copy(update={"max_steps": 2})
    loaded = open_tiny(quantised)
    kinds = {type(module).__name__ for module in loaded.model.modules()}
    assert "Linear4bit" in kinds
    train(config, loaded, conversations, workspace)
    stored = load_file(workspace.out / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert all(tensor.all() for name, tensor in stored.items() if "lora_B" in name)


def test_the_defaults_are_the_reference_recipe_under_the_librarys_names():
    arguments = SftConfig().trl_arguments(seed=7)
    assert arguments["packing"] is False
    assert arguments["learning_rate"] == 2e-5
    assert arguments["num_train_epochs"] == 3
    assert arguments["seed"] == arguments["data_seed"] == 7
