import pytest

from alignment.data.build.prepare import prepare_conversations, prepare_pairs
from alignment.data.build.settings import Lengths, PairSetConfig


@pytest.fixture
def prepare(tmp_path, chatml_tokenizer):
    """A function that prepares a set in its own folder and returns (reference, report, folder)."""
    made = iter(range(100))

    def run(
        config,
        *,
        seed=1,
        earlier=None,
        tokenizer=chatml_tokenizer,
        whole=4096,
        prompt=2048,
        out=None,
        **more,
    ):
        out = tmp_path / (out or f"out-{next(made)}")
        out.mkdir(exist_ok=True)
        if isinstance(config, PairSetConfig):
            prepared = prepare_pairs(
                config,
                lengths=Lengths(prompt=prompt, whole=whole, reply=16),
                tokenizer=tokenizer,
                earlier=earlier or {},
                seed=seed,
                out=out,
                **more,
            )
        else:
            prepared = prepare_conversations(
                config,
                max_length=whole,
                tokenizer=tokenizer,
                earlier=earlier or {},
                seed=seed,
                out=out,
                **more,
            )
        return (*prepared, out)

    return run
