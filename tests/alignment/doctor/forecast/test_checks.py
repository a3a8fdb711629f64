"""Forecasts of memory and time, checked against measurements."""

import json
import random
from dataclasses import replace

import pytest
from transformers import AutoConfig

from alignment.doctor.forecast.checks import check_memory, check_time, duration
from alignment.doctor.forecast.devices import GIB, find_device
from alignment.doctor.forecast.memory import SAVED, activation_bytes, forecast_memory, weight_bytes
from alignment.doctor.forecast.plans import minimal, planned
from alignment.doctor.forecast.timing import (
    attention_flops,
    flops_per_token,
    forecast_seconds,
    passes,
)
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape
from alignment.errors import UsageError
from alignment.records.refs import Nf4
from alignment.scoring.budget import CPU_TOKENS
from alignment.scoring.engine import Packed, StepRows, Stock
from alignment.train.memory_plan import Plan
from alignment.train.settings import DpoConfig, SftConfig
from benchmarks.workload import DISTRIBUTIONS
from tests.alignment.doctor.forecast.test_schedule import QWEN_7B

H100 = find_device("h100-80gb")


def sft(sample, **settings):
    """A training with TRL's batches, unless the settings name another engine."""
    config = SftConfig(**{"engine": Stock(), **settings})
    return Training("sft", config, 100 * len(sample), sample)


def test_parameters_follow_from_the_shape():
    """A block: 2 x 3584^2 + 2 x 3584 x 512 + 3 x 3584 x 18944; 28 of them; 2 x 152064 x 3584."""
    assert QWEN_7B.block_parameters == 28 * 233_046_016
    assert QWEN_7B.embedding_parameters == 2 * 544_997_376
    assert QWEN_7B.lora_parameters(64, QWEN_7B.linears()) == 161_480_704  # 2.1 % of 7.62 B
    assert QWEN_7B.lora_parameters(64, ["q_proj"]) == 28 * 64 * 2 * 3584


def test_a_shape_has_the_parameters_of_the_model_that_transformers_builds(tiny_model_folder):
    from transformers import AutoModelForCausalLM

    shape = Shape.read(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    assert shape is not None
    small = sum(p.numel() for p in model.parameters() if p.dim() == 1)  # biases and norms
    assert shape.parameters == model.num_parameters() - small


def test_experts_count_in_memory_and_only_those_met_in_time(tmp_path):
    """Mixtral 8x7B: 46.7 billion weights, of which a token meets two experts' in eight, 12.9.

    Its experts are no linear layers, so that 4 bits compress attention alone: 1.3 billion.
    """
    AutoConfig.for_model("mixtral").save_pretrained(tmp_path)
    shape = Shape.read(tmp_path)
    assert shape is not None
    assert shape.parameters == pytest.approx(46.7e9, rel=1e-3)
    embedding = 32000 * 4096
    assert shape.matmul_parameters + embedding == pytest.approx(12.88e9, rel=1e-3)
    assert shape.block_parameters == 32 * (2 * 4096**2 + 2 * 4096 * 1024)
    assert weight_bytes(shape, Nf4(), bf16=True) > 2 * 45e9
    attention, expert = 2 * 8192 + 2 * 5120, (4096 + 2 * 14336) + (14336 + 4096)
    assert shape.lora_parameters(8, ["q_proj", "k_proj", "v_proj", "o_proj"]) == 32 * 8 * attention
    assert shape.lora_parameters(8, "all-linear") == 32 * 8 * (attention + 8 * expert)
    assert shape.lora_parameters_met(8, "all-linear") == 32 * 8 * (attention + 2 * expert)


@pytest.mark.parametrize(
    ("family", "published", "whole", "met", "adapter"),
    [
        (
            "qwen3_moe",  # Qwen3-30B-A3B
            {
                "hidden_size": 2048,
                "num_hidden_layers": 48,
                "num_attention_heads": 32,
                "num_key_value_heads": 4,
                "head_dim": 128,
                "moe_intermediate_size": 768,
                "num_experts": 128,
                "num_experts_per_tok": 8,
                "vocab_size": 151936,
            },
            30.5e9,
            3.04e9,  # 3.35 with the embedding
            48 * (2 * 6144 + 2 * 2560 + 128 * ((2048 + 1536) + (768 + 2048))),
        ),
        (
            "gpt_oss",  # gpt-oss-20b
            {
                "hidden_size": 2880,
                "intermediate_size": 2880,
                "num_hidden_layers": 24,
                "num_attention_heads": 64,
                "num_key_value_heads": 8,
                "head_dim": 64,
                "num_local_experts": 32,
                "num_experts_per_tok": 4,
                "vocab_size": 201088,
            },
            20.9e9,
            3.61e9,
            24 * (2 * 6976 + 2 * 3392 + 32 * ((2880 + 5760) + (2880 + 2880))),
        ),
    ],
)
def test_published_sizes_of_models_with_experts(tmp_path, family, published, whole, met, adapter):
    """All weights, and those that a token meets, as their publishers state them; and an adapter."""
    AutoConfig.for_model(family, **published, tie_word_embeddings=False).save_pretrained(tmp_path)
    shape = Shape.read(tmp_path)
    assert shape is not None
    assert shape.parameters == pytest.approx(whole, rel=0.01)
    assert shape.matmul_parameters == pytest.approx(met, rel=0.02)
    assert shape.lora_parameters(1, "all-linear") == adapter


@pytest.mark.parametrize("content", ["{}", "no JSON", json.dumps({"hidden_size": "wide"})])
def test_a_config_without_a_shape_gives_none_and_no_forecast(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert Shape.read(tmp_path) is None
    assert check_memory([], None, None, H100).verdict == "warn"
    assert check_time([], None, H100).verdict == "warn"


def test_four_bit_weights_take_4_127_bits_and_the_embeddings_two_bytes():
    whole = weight_bytes(QWEN_7B, Nf4(), bf16=True)
    assert whole == QWEN_7B.block_parameters * 4.126953125 / 8 + 2 * 2 * 544_997_376
    assert whole / GIB == pytest.approx(5.17, abs=0.01)
    assert weight_bytes(QWEN_7B, None, bf16=False) == 4 * QWEN_7B.parameters


@pytest.mark.parametrize(("bf16", "dropout"), list(SAVED))
def test_what_a_block_keeps_for_its_backward_pass_is_counted_by_autograd(bf16, dropout):
    """Two depths, so that embedding and last norm cancel; within 3 % of the table."""
    shape = {"hidden_size": 256, "intermediate_size": 1024}
    kept = _kept(3, bf16=bf16, dropout=dropout, **shape) - _kept(
        1, bf16=bf16, dropout=dropout, **shape
    )
    hidden, mlp = SAVED[bf16, dropout]
    assert kept / 2 == pytest.approx(hidden * 256 + mlp * 1024, rel=0.03)


def _kept(layers, *, bf16, dropout, **shape):
    """Bytes per token that a forward pass keeps, without weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=64,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        dtype="bfloat16" if bf16 else "float32",
        **shape,
    )
    targets = list(QWEN_7B.linears())
    adapted = get_peft_model(
        AutoModelForCausalLM.from_config(config),
        LoraConfig(r=1, lora_dropout=0.05 * dropout, target_modules=targets, task_type="CAUSAL_LM"),
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    weights = {p.untyped_storage().data_ptr() for p in adapted.parameters()}
    kept, references = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            references.append(tensor)  # so that no storage is reused
        return tensor

    ids = torch.ones((2, 128), dtype=torch.long)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        adapted.train()(input_ids=ids, logits_to_keep=1)
    return sum(kept.values()) / ids.numel()


def test_checkpointing_keeps_a_hidden_state_a_block_and_one_block():
    training, block = sft([(1,)]), 1000 * (49 * 3584 + 12 * 18944)
    with_it = activation_bytes(training, QWEN_7B, 1000)
    assert with_it == 28 * 1000 * 2 * 3584 + block
    without = activation_bytes(sft([(1,)], gradient_checkpointing=False), QWEN_7B, 1000)
    assert without == 28 * block
    half = activation_bytes(replace(training, plan=Plan(1000, 0.5)), QWEN_7B, 1000)
    assert half == (with_it + without) / 2


def test_the_largest_micro_batch_is_as_wide_as_the_longest_row():
    training = sft([(10,), (30,), (20,), (20,)], batch=StepRows(per_device=2, accumulation=1))
    assert training.tokens() == [60, 40]
    assert training.largest == 60
    pairs = Training("dpo-1", DpoConfig(engine=Stock()), 2, [(10, 30), (5, 5)])
    assert pairs.tokens() == [4 * 30]


def test_the_packed_engine_pads_nothing_and_splits_a_step_by_its_budget():
    """Steps of four rows: 30 + 20 fit into 50, then 20 + 10; the budget may cover a whole step."""
    settings = {"engine": Packed(), "batch": StepRows(per_device=4, accumulation=1)}
    rows = [(10,), (30,), (20,), (20,)]
    training = Training("sft", SftConfig(**settings), 8, rows, plan=Plan(50, 1.0))
    assert sorted(training.tokens()) == [30, 50]
    assert training.micro_batches == 3 * 2 * 2  # epochs, steps each, parts of a step
    assert training.largest == 50
    assert Training("sft", SftConfig(**settings), 8, rows, plan=Plan(5, 1.0)).largest == 30
    assert Training("sft", SftConfig(**settings), 2, rows[:2], plan=Plan(500, 1.0)).largest == 40


def test_a_short_packed_run_is_not_assumed_to_draw_only_the_longest_rows():
    """Ten rows of 100 tokens, 90 of 10: a step with two long rows is rare, but occurs in 1,000."""
    settings = {"engine": Packed(), "batch": StepRows(per_device=2, accumulation=1), "max_steps": 1}
    rows = [(100,)] * 10 + [(10,)] * 90
    short = Training("sft", SftConfig(**settings), 100, rows, plan=Plan(500, 1.0))
    long = Training(
        "sft", SftConfig(**{**settings, "max_steps": 1000}), 100, rows, plan=Plan(500, 1.0)
    )
    assert short.largest <= long.largest == 200


def test_memory_that_fits_is_ok_tight_memory_warns_and_too_little_fails():
    small = check_memory([sft([(600,)] * 8)], QWEN_7B, Nf4(), H100)
    assert small.verdict == "ok"
    rows = [(4096,)] * 64
    batch = StepRows(per_device=64, accumulation=1)
    large = check_memory([sft(rows, batch=batch)], QWEN_7B, Nf4(), H100)
    assert large.verdict == "fail"
    assert "per_device" in large.remedy
    tight = H100.model_copy(update={"memory": small.figures["evaluation_gib"] * GIB / 0.9})
    assert check_memory([sft([(600,)] * 8)], QWEN_7B, Nf4(), tight).verdict == "warn"


def test_a_model_that_trains_in_four_bits_and_cannot_be_evaluated_fails():
    """Qwen2.5's 32B shape: 62 GiB in bfloat16."""
    large = QWEN_7B.model_copy(
        update={
            "hidden_size": 5120,
            "intermediate_size": 27648,
            "num_hidden_layers": 64,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
        }
    )
    engine = Packed(compile=False)
    training = sft([(600,)] * 64, engine=engine)
    card = find_device("a100-40gb")
    found = check_memory([planned(training, large, Nf4(), card)], large, Nf4(), card)
    assert found.verdict == "fail"
    assert "27.1 GiB would fit. Evaluation loads all weights: 61.5 GiB." in found.headline
    assert found.remedy.startswith("For evaluation, own answers and stacks take a device with more")


def test_a_token_costs_two_operations_per_weight_and_pass():
    """SFT with checkpointing: forward, recomputed forward, backward; DPO: the reference's too."""
    assert passes(sft([(1,)])) == 3
    assert passes(sft([(1,)], gradient_checkpointing=False)) == 2
    assert passes(Training("dpo-1", DpoConfig(engine=Stock()), 1, [(1, 1)])) == 4
    weights = 28 * 233_046_016 + 544_997_376
    assert flops_per_token(sft([(1,)]), QWEN_7B) == 6 * weights + 8 * 161_480_704


MEASURED = [
    # name, training, seconds per micro-batch measured with TRL on an H100
    ("fixed", sft([(4096,)] * 16), 1.22),
    ("short", sft([(860,)] * 16), 0.89),
]


@pytest.mark.parametrize(
    ("training", "seconds"), [row[1:] for row in MEASURED], ids=["fixed", "short"]
)
def test_the_forecast_reproduces_the_runs_it_was_fitted_to(training, seconds):
    a_micro_batch = forecast_seconds(training, QWEN_7B, H100) / training.micro_batches
    assert a_micro_batch == pytest.approx(seconds, rel=0.05)


def test_the_forecast_of_dpo_is_within_a_tenth_of_the_measurement():
    """2 pairs per micro-batch, 4 chats padded to 1,020 tokens on average: 1.105 s, not fitted."""
    training = Training("dpo-1", DpoConfig(engine=Stock()), 16, [(1020, 900)] * 16)
    a_micro_batch = forecast_seconds(training, QWEN_7B, H100) / training.micro_batches
    assert a_micro_batch == pytest.approx(1.105, rel=0.1)


def test_adapters_carried_along_are_held_in_bf16_and_multiplied_with_every_token():
    merged = sft([(600,)] * 8)
    stacked = replace(merged, frozen=64)
    lora = 161_480_704  # of rank 64 on all seven layers
    more = (forecast_memory(t, QWEN_7B, Nf4(), H100).total for t in (stacked, merged))
    assert next(more) - next(more) == 2 * lora
    assert flops_per_token(stacked, QWEN_7B) - flops_per_token(merged, QWEN_7B) == 3 * 2 * lora


def test_padded_rows_are_compared_under_a_mask_and_rows_of_one_length_are_not():
    """Two rows of 30 tokens: 2 * 30^2 pairs; the other micro-batch has one length."""
    training = sft([(10,), (30,), (20,), (20,)], batch=StepRows(per_device=2, accumulation=1))
    assert training.masked() == (2 * 30**2 + 0) / 2
    # 4 * pairs * 3584 * 28 per forward pass; two of these and 2.5 for the backward pass
    assert attention_flops(training, QWEN_7B, 900) == 4 * 900 * 3584 * 28 * 4.5
    assert sft([(30,)] * 2).masked() == 0.0
    assert Training("sft", SftConfig(engine=Packed()), 2, [(10,), (30,)]).masked() == 0.0


def test_large_padded_micro_batches_are_within_an_eighth_of_the_measurement():
    """16 rows whose longest has 1,576 tokens, the average for real lengths: 5.5 s."""
    batch = StepRows(per_device=16, accumulation=1)
    training = sft([*[(520,)] * 15, (1576,)], batch=batch)
    a_micro_batch = forecast_seconds(training, QWEN_7B, H100) / training.micro_batches
    assert a_micro_batch == pytest.approx(5.5, rel=0.125)


H200 = find_device("h200")
PACKED = Packed(compile=True, tokens_per_micro_batch=8192)
ON_H200 = [
    # pairs or rows per second, GiB at the peak: stock 2 x 8, packed 16 rows per step
    ("sft", Stock(), 2.85, 9.9),
    ("dpo", Stock(), 2.19, 10.8),
    ("sft", Packed(), 12.93, 13.8),  # 16,384 tokens per micro-batch, all recomputed, not compiled
    ("dpo", Packed(), 6.61, 14.9),
]


@pytest.mark.parametrize(("kind", "engine", "rate", "peak"), ON_H200)
def test_the_forecast_is_within_a_tenth_of_both_engines_on_an_h200(kind, engine, rate, peak):
    """The rows of benchmarks.speed: ten steps, eight counted. The times of SFT are fitted."""
    draw = random.Random(0)
    rows = [DISTRIBUTIONS["real"](draw) for _ in range(160)]
    training = _measured_on_h200(kind, engine, rows)
    counted = _measured_on_h200(kind, engine, rows[32:])
    seconds = forecast_seconds(counted, QWEN_7B, H200)
    assert seconds == pytest.approx(128 / rate, rel=0.1)
    memory = forecast_memory(training, QWEN_7B, Nf4(), H200)
    assert (memory.total - memory.resident) / GIB == pytest.approx(peak, rel=0.1)


def _measured_on_h200(kind, engine, rows):
    settings = {
        "batch": StepRows(per_device=2, accumulation=8),
        "epochs": 1,
        "engine": engine,
    }
    if kind == "sft":
        chats = [(prompt + chosen,) for prompt, chosen, _ in rows]
        return Training("sft", SftConfig(**settings), len(rows), chats, plan=Plan(16384, 1.0))
    if isinstance(engine, Packed):
        whole = [(sum(row),) for row in rows]
        return Training("dpo-1", DpoConfig(**settings), len(rows), whole, plan=Plan(16384, 1.0))
    pairs = [(prompt + chosen, prompt + rejected) for prompt, chosen, rejected in rows]
    return Training("dpo-1", DpoConfig(**settings), len(rows), pairs)


A_CARD = find_device("h200").within(39.0)
COMPILED = [
    # an H200 limited to 39 GiB: rows or pairs per second, GiB at the peak; 8,192 tokens, all kept
    ("sft", "real", 20.90, 26.5),
    ("dpo", "real", 9.59, 29.9),
    ("sft", "fixed", 3.05, 31.3),
]


@pytest.mark.parametrize(("kind", "lengths", "rate", "peak"), COMPILED)
def test_the_packed_engine_is_forecast_as_it_fills_a_card(kind, lengths, rate, peak):
    """Within a tenth of the measurements; the peak for fixed lengths is fitted."""
    draw = random.Random(0)
    rows = [DISTRIBUTIONS[lengths](draw) for _ in range(160)]
    training, counted = (
        planned(_measured_on_h200(kind, PACKED, part), QWEN_7B, Nf4(), A_CARD)
        for part in (rows, rows[32:])
    )
    assert (training.plan.recompute, training.compiled) == (0.0, True)
    seconds = forecast_seconds(counted, QWEN_7B, A_CARD)
    assert seconds == pytest.approx(128 / rate, rel=0.1)
    memory = forecast_memory(training, QWEN_7B, Nf4(), A_CARD)
    assert (memory.total - memory.resident) / GIB == pytest.approx(peak, rel=0.1)


def test_all_layers_recomputing_is_forecast_as_measured():
    """8,192 tokens on that card: 11.7 GiB."""
    engine = Packed(compile=True, recompute=1.0, tokens_per_micro_batch=8192)
    training = planned(sft([(4096,)] * 32, engine=engine), QWEN_7B, Nf4(), A_CARD)
    memory = forecast_memory(training, QWEN_7B, Nf4(), A_CARD)
    assert (memory.total - memory.resident) / GIB == pytest.approx(11.7, rel=0.1)


def test_a_card_that_the_packed_engine_fills_is_not_too_small_for_it():
    """Without compiling, a token keeps 11.3 MB: 9,600 exceed 39 GiB, so most layers recompute."""
    engine = Packed(compile=False)
    training = planned(sft([(600,)] * 64, engine=engine), QWEN_7B, Nf4(), A_CARD)
    assert training.plan.tokens == 9728
    found = check_memory([training], QWEN_7B, Nf4(), A_CARD)
    assert found.verdict == "ok"
    assert found.figures["sft_gib"] > 0.8 * 39
    assert "The packed engine fills what is free; 8." in found.headline
    assert found.tables[0].rows[0][-1].text == "9,728 tokens, 75% recomputed"


def test_a_long_row_gets_a_micro_batch_and_a_share_of_recomputing_layers_of_its_own():
    """Without compiling, 2,560 tokens keep all of their activations, 7,680 tokens a third."""
    engine = Packed(compile=False, tokens_per_micro_batch=2560)
    training = sft([(7680,)] * 16, engine=engine, max_length=8192)
    found = planned(training, QWEN_7B, Nf4(), A_CARD)
    assert (found.plan.tokens, found.plan.recompute) == (2560, 0)
    assert 0.6 < found.recomputed(7680) < 1
    memory = forecast_memory(found, QWEN_7B, Nf4(), A_CARD)
    assert 0.85 < memory.total / A_CARD.memory < 1
    assert minimal(found, QWEN_7B, A_CARD).recomputed(7680) == 1


def test_where_the_share_is_set_a_long_row_recomputes_all_layers():
    """6,000 recomputed tokens keep less than the other 4,096 tokens."""
    engine = Packed(tokens_per_micro_batch=4096, recompute=0.0, compile=False)
    long, short = (
        forecast_memory(
            planned(sft(rows, engine=engine), QWEN_7B, Nf4(), H200),
            QWEN_7B,
            Nf4(),
            H200,
        ).activations
        for rows in ([(6000,)] + [(1024,)] * 15, [(1024,)] * 16)
    )
    assert long == short


@pytest.mark.parametrize(("steps", "compiled"), [(199, False), (200, True)])
def test_a_training_is_compiled_where_the_engine_would(steps, compiled):
    training = sft([(600,)] * 16, engine=Packed(), max_steps=steps)
    assert planned(training, QWEN_7B, Nf4(), A_CARD).compiled is compiled
    assert not planned(training, QWEN_7B, Nf4(), find_device("cpu")).compiled


def test_on_a_cpu_the_plan_is_a_constant_and_stock_has_none():
    cpu = find_device("cpu")
    training = planned(sft([(600,)] * 16, engine=Packed()), QWEN_7B, None, cpu)
    assert (training.plan, training.on_gpu) == (Plan(CPU_TOKENS, 1.0), False)
    assert minimal(training, QWEN_7B, cpu) == training
    stock = sft([(600,)] * 16)
    assert planned(stock, QWEN_7B, None, A_CARD) is minimal(stock, QWEN_7B, A_CARD) is stock


def test_an_unknown_device_is_refused_with_the_known_names():
    with pytest.raises(UsageError, match="'b200' is not known; choose one of a100-40gb"):
        find_device("b200")
    assert find_device("cpu").is_gpu is False


def test_durations_are_for_people():
    assert [duration(s) for s in (7, 300, 7200)] == ["7 s", "5 min", "2.0 h"]
