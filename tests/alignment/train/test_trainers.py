"""How TRL's own trainers score replies, compared with `alignment.scoring`."""

import pytest

from alignment.models.chat_template import end_of_turn_id
from alignment.scoring.logprobs import pair_logprobs


def test_the_trainer_library_scores_the_same_tokens(open_tiny, pairs, dpo_trainer):
    """TRL's reference log-probs of the trainer's own batch; replies end with their stop token."""
    loaded = open_tiny()
    trainer = dpo_trainer(loaded, pairs[:4])
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
    ours = pair_logprobs(loaded.model, loaded.tokenizer, pairs[:4], batch=4, max_length=256)
    assert chosen.tolist() == pytest.approx(ours.chosen.tolist(), rel=1e-5)
    assert rejected.tolist() == pytest.approx(ours.rejected.tolist(), rel=1e-5)
    last = batch["input_ids"].gather(1, batch["attention_mask"].sum(1, keepdim=True) - 1)
    assert set(last[:, 0].tolist()) == {end_of_turn_id(loaded.tokenizer)}
