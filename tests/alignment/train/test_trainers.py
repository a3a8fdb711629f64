"""How TRL's own trainers score replies, compared with `alignment.scoring`."""

import pytest

from alignment.models.chat_template import end_of_turn_id, render
from alignment.scoring.logprobs import encode, pair_logprobs
from tests.alignment.naive import naive_logprob


def test_the_trainer_library_scores_one_token_more_the_newline_after_the_turn(
    open_tiny, pairs, dpo_trainer
):
    """TRL's reference log-probs of the trainer's own batch = ours + log p(newline | whole reply).

    ChatML writes a newline after <|im_end|>. TRL counts it as part of the reply, we do not: it is
    not part of the answer, and nothing generates it.
    """
    loaded = open_tiny()
    trainer = dpo_trainer(loaded, pairs[:4])
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
    ours = pair_logprobs(loaded.model, loaded.tokenizer, pairs[:4], batch=4, max_length=256)
    (newline,) = render(loaded.tokenizer, pairs[0].prompt)[-1:]
    assert loaded.tokenizer.decode([newline]) == "\n"
    stop = end_of_turn_id(loaded.tokenizer)
    for side, own, theirs in (
        ("chosen", ours.chosen, chosen),
        ("rejected", ours.rejected, rejected),
    ):
        for at, pair in enumerate(pairs[:4]):
            row = encode(loaded.tokenizer, pair.prompt, getattr(pair, side), max_length=256)
            assert row.reply[-1] == stop
            with trainer.model.disable_adapter():
                after = naive_logprob(trainer.model, [*row.prompt, *row.reply], [newline])
            assert theirs[at].item() == pytest.approx(own[at].item() + after, rel=1e-5)
