"""Training the writing model, on a text made on the spot."""

import json
import lzma

import numpy as np
import pytest
import torch

from dlm import Restorer
from dlm.restorer import plain_words
from dlm.tags import ENDS, FULL_STOP, Tagged, tagged
from dlm.writing import WritingModel
from recipes.data.tagged_lines import TaggedLines
from recipes.tasks.writing import Mishearing, WritingData, WritingStart, WritingTask, WrittenText, frequent_pieces
from tests.dlm.conftest import PIECES, SIZES

SENTENCES = ["Well, he saw Mr. McDonald in the house.", "Did she?", "No; she was out!", "The BBC said so, I say."] * 5


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(SENTENCES))
    return str(path)


@pytest.fixture
def bert(tmp_path):
    """A BERT with random weights and its tokenizer."""
    from transformers import BertConfig, BertModel

    folder = tmp_path / "bert"
    pieces = [*PIECES, "he", "she", "house", "never"]
    BertModel(BertConfig(**SIZES, vocab_size=len(pieces))).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {p: i for i, p in enumerate(pieces)}}}))
    return str(folder)


def make_task(text, bert, **options):
    data = WritingData([WrittenText(text)], text, (5, 12), batch_words=60, epoch_batches=4, **options)
    return WritingTask(WritingStart(bert, pieces=61), data)


def test_units_and_forms_of_the_text(text, bert):
    model = make_task(text, bert).model
    assert len(model.pieces) == 61 and "never" not in model.pieces.pieces and "he" in model.pieces.pieces
    assert model.forms == {"mcdonald": "McDonald", "mr": "Mr."}
    assert frequent_pieces(PIECES, SENTENCES, 10) == PIECES


def test_stretches_are_cut_from_running_text(text):
    data = WritingData([WrittenText(text)], text)
    whole = tagged(" ".join(SENTENCES))
    kinds = set()
    for seed in range(60):
        cut, opens, closes, before = data.stretch(0, seed % 4, 14, np.random.default_rng(seed))
        kinds.add((opens, closes))
        assert 1 <= len(cut.words) <= 14 and " ".join(cut.words) in " ".join(whole.words)
        assert cut.marks[-1] in ENDS or not closes
        assert before == FULL_STOP or not opens
    assert len(kinds) == 4


def test_batches_repeat_and_tags_fit_words(text, bert):
    task = make_task(text, bert)
    plans = task.train_batches(0, 0, 1)
    assert len(plans) == 4 and plans == task.train_batches(0, 0, 1) != task.train_batches(1, 0, 1)
    assert task.train_batches(0, 1, 2) == plans[1::2]
    for plan in plans:
        batch, again = task.load(plan), task.load(plan)
        assert all(torch.equal(batch[name], again[name]) for name in batch)
        assert len(batch["first"]) == len(batch["marks"]) == len(batch["cases"]) == len(batch["before"])
        assert (batch["tokens"].flatten()[batch["first"]] > 3).all()


def test_lines_are_tagged_alike_by_several_processes(monkeypatch):
    monkeypatch.setattr("recipes.data.tagged_lines.LINES", 3)
    sentences = [*SENTENCES, "", "(...)"]
    whole, (one, two) = tagged(" ".join(SENTENCES)), (TaggedLines.of(sentences, processes) for processes in (1, 2))
    assert len(one) == len(two) == 22 and one[:] == two[:] == whole
    assert [len(tagged(sentence).words) for sentence in sentences] == np.diff(one.starts).tolist()
    assert len(TaggedLines.of([])) == 0


def test_a_deeper_model_begins_with_layers_twice(text, bert):
    model = make_task(text, bert).model
    deeper = WritingTask(model_folder(model, bert), make_task(text, bert).data, layers=[0, 1, 1], dropout=0.1).model
    own, copied = model.encoder.encoder.layer, deeper.encoder.encoder.layer
    for source, layer in zip((own[0], own[1], own[1]), copied, strict=True):
        assert all(torch.equal(value, layer.state_dict()[name]) for name, value in source.state_dict().items())
    assert torch.equal(model.mark.weight, deeper.mark.weight) and deeper.encoder.config.num_hidden_layers == 3
    assert {module.p for module in deeper.modules() if isinstance(module, torch.nn.Dropout)} == {0.1}
    again = WritingModel.from_pretrained(model_folder(deeper, bert))
    assert len(again.encoder.encoder.layer) == 3 and again.encoder.config.hidden_dropout_prob == 0.0
    with pytest.raises(ValueError, match="the encoder has 2"):
        model.with_layers([0, 2])


def model_folder(model, bert) -> str:
    model.save_pretrained(f"{bert}_model")
    return f"{bert}_model"


def test_misheard_words_keep_the_marks():
    said = Tagged(["a", "bb", "ccc", "dddd"] * 50, [0, 0, 1, FULL_STOP] * 50, [1, 0, 0, 0] * 50)
    assert Mishearing(share=0.0)(said, np.random.default_rng(0)) == said
    heard = Mishearing(share=1.0, rate=(0.4, 0.4))(said, np.random.default_rng(0))
    assert len(heard.words) == len(heard.marks) == len(heard.cases) < 200
    changed = sum(word not in said.words for word in heard.words)
    assert 20 < changed < 80
    assert heard.marks.count(FULL_STOP) > 45  # a lost word leaves its mark to the one before


def test_misspellings_are_learned_from_pairs(tmp_path):
    row = {"id": "1", "text": "he laught", "hypotheses": [["he laft", -1.0]]}
    (tmp_path / "0.jsonl").write_text(json.dumps(row) + "\n")
    mishear = Mishearing(str(tmp_path), share=1.0, rate=(1.0, 1.0))
    said = Tagged(["laught"] * 40, [0] * 40, [0] * 40)
    assert "laft" in mishear(said, np.random.default_rng(0)).words


def test_experiment_trains_and_resumes(tmp_path, bert, train_and_resume):
    data = tmp_path / "data"
    (data / "text").mkdir(parents=True)
    for name in ("books", "modern", "written_dev"):
        (data / "text" / f"{name}.txt.xz").write_bytes(lzma.compress("\n".join(SENTENCES).encode()))
    (data / "minilm").symlink_to(bert)

    overrides = ["trainer.precision=no", "data.batch_words=60", "data.lengths=[10]", "data.epoch_batches=3"]
    lines, model = train_and_resume("writing", overrides, data)
    assert {"ends", "capitals"} <= lines[-1].keys()
    assert plain_words(Restorer.from_pretrained(model)("he saw")) == ["he", "saw"]
