import pytest
import torch

from alignment.candidates.reward import label_by_reward_model
from alignment.errors import ModelError
from alignment.models.chat_template import render
from alignment.records.text import Message
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from tests.alignment.candidates.written import PROMPT, samples
from tests.own_answers import write_reward_model

TEXTS = ["The answer is yes.", "no", "The answer is no. " * 5]


@pytest.fixture
def write_classifier(tmp_path, chatml_tokenizer):
    """A function that writes a small sequence classifier with so many labels."""

    def write(labels):
        folder = tmp_path / "reward"
        return write_reward_model(folder, chatml_tokenizer, labels=labels), folder

    return write


def label(folder, tmp_path, texts=TEXTS, batch=2):
    workspace = Workspace(folder=tmp_path / "work", log=tmp_path / "log")
    workspace.out.mkdir(parents=True, exist_ok=True)
    rows = label_by_reward_model(
        folder, {"p": PROMPT}, samples(texts), workspace, Progress(), batch=batch
    )
    return {row.sample: row.score for row in rows}


def test_an_answer_gets_the_score_that_it_gets_alone(write_classifier, tmp_path, chatml_tokenizer):
    model, folder = write_classifier(1)
    found = label(folder, tmp_path)
    assert len(found) == 3
    for sample, text in enumerate(TEXTS):
        ids = render(chatml_tokenizer, (*PROMPT.prompt, Message(role="assistant", content=text)))
        with torch.no_grad():
            alone = float(model(input_ids=torch.tensor([ids])).logits[0, 0])
        assert found[sample] == pytest.approx(alone, abs=1e-5)


def test_labels_that_exist_are_kept(write_classifier, tmp_path):
    _, folder = write_classifier(1)
    first = label(folder, tmp_path, TEXTS[:1])
    assert label(folder, tmp_path)[0] == first[0]


def test_a_model_that_computes_no_numbers_labels_nothing(write_classifier, tmp_path):
    model, folder = write_classifier(1)
    with torch.no_grad():
        model.score.weight[0, 0] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"computes no numbers: its score .* 'p' is nan"):
        label(folder, tmp_path)
    assert not (tmp_path / "work" / "out" / "rows.jsonl").exists()


def test_a_classifier_with_two_labels_is_refused(write_classifier, tmp_path):
    _, folder = write_classifier(2)
    with pytest.raises(ModelError, match="has 2 labels; a reward model has one"):
        label(folder, tmp_path)


def test_a_language_model_is_refused(tiny_model_folder, tmp_path):
    with pytest.raises(ModelError, match=r"2 labels|it is not a reward model"):
        label(tiny_model_folder, tmp_path)
