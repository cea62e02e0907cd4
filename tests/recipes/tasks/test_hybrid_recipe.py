"""The hybrid recogniser's recipe: where it starts, what it learns from, frame labels, rates."""

from pathlib import Path

import numpy as np
import pytest
import torch

import asr
from asr.audio import load
from asr.audio.augment import SpecAugment, seeded
from asr.audio.features import whisper_log_mel
from asr.hybrid.branch import BranchSizes
from asr.hybrid.model import HybridModel
from asr.text.tokenizer import Tokenizer
from recipes.data.alignment import IGNORED, Aligner, frame_labels
from recipes.data.features import Content
from recipes.data.speech_data import Share, SpeechData
from recipes.data.store import FeatureStore, write_shard
from recipes.data.toy import say, sentences, write_store
from recipes.data.written_speech import WrittenBatches, silence
from recipes.tasks.hybrid import HybridStart, HybridTask, rebuilt
from recipes.training.toy_parts import SECONDS, writing_whisper

SAMPLE = Path(asr.__file__).parent / "sample.flac"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Units, text, a tiny Whisper, a hybrid model that starts from it and two stores, one with times of words."""
    torch.manual_seed(0)
    root, texts = tmp_path_factory.mktemp("hybrid"), sentences(200, seeded(0))
    (root / "units.json").write_text(Tokenizer.train(texts, 200, written=True).definition)
    (root / "text.txt").write_text("\n".join(texts))
    writing_whisper(root / "whisper", texts)
    start(root).model().save_pretrained(root / "model")
    write_store(root / "train", 20, 0, Content("whisper"))
    spoken = [say(text, seeded(1)) for text in texts[:4]]
    examples = [{"id": str(i), "text": text, "speaker": "toy"} for i, text in enumerate(texts[:4])]
    for example, wave in zip(examples, spoken, strict=True):
        edges = np.linspace(0, len(wave) // 160, len(example["text"].split()) + 1).astype(int).tolist()
        example["spans"] = list(zip(edges, edges[1:], strict=False))
    features = [whisper_log_mel(torch.from_numpy(wave)).numpy() for wave in spoken]
    write_shard(root / "aligned", 0, examples, features, "whisper")
    return root


def start(root, **changes):
    options = {"name": str(root / "whisper"), "units": str(root / "units.json"), "sentences": str(root / "text.txt")}
    return HybridStart(**{**options, "at_least": 1, **changes})


def data(root, *folders, **changes):
    stores = [Share(str(root / folder)) for folder in folders]
    options = {"validation": str(root / "train"), "batch_seconds": 5.0, "epoch_hours": 0.005, "shortest": 0.1}
    return SpeechData(stores=stores, **{**options, **changes})


def test_a_recording_too_long_for_the_encoder_is_not_validated_on(home, tmp_path):
    features = [np.zeros((frames, 80), np.float32) for frames in (120, 5 * 10**5)]
    examples = [{"id": f"{len(f)}", "text": "Well.", "speaker": "toy"} for f in features]
    write_shard(tmp_path / "held", 0, examples, features, "whisper")
    model = HybridModel.from_pretrained(home / "model")
    batches = WrittenBatches(data(home, "train", validation=str(tmp_path / "held")), model, seed=0)
    assert [batch["lengths"].tolist() for batch, _ in batches.held_out()] == [[120]]


# -- where it starts ---------------------------------------------------------------------------------------


def test_a_branch_of_the_same_kind_keeps_its_weights(home):
    before = HybridModel.from_pretrained(home / "model").state_dict()
    for units in (str(home / "units.json"), None):  # None: the model's own
        same = start(home, name=str(home / "model"), units=units).model()
        assert all(torch.equal(value, before[name]) for name, value in same.state_dict().items())
    with pytest.raises(ValueError, match="is a Whisper: start.units"):
        start(home, units=None).model()
    other = start(home, name=str(home / "model"), branch=BranchSizes(stride=1, mixes=False)).model()
    assert other.hop_seconds == 0.02 and other.branch.mixture is None
    kept = {name: value for name, value in other.state_dict().items() if not name.startswith("branch")}
    assert kept and all(torch.equal(value, before[name]) for name, value in kept.items())


def test_a_denoiser_comes_along_when_the_branch_is_new(home):
    from asr.hybrid.denoiser import SlotSizes

    with_slots = HybridModel.from_pretrained(home / "model").with_slots(SlotSizes(layers=1))
    with_slots.writes_with, with_slots.denoising = "dllm", {"max_passes": 3}
    model = rebuilt(with_slots, BranchSizes(len(with_slots.units), layers=2, mixes=False), with_slots.units, 0.0)
    same = dict(with_slots.slots.named_parameters())
    assert all(torch.equal(p, same[name]) and not p.requires_grad for name, p in model.slots.named_parameters())
    assert (model.writes_with, model.denoising, len(model.branch.layers)) == ("dllm", {"max_passes": 3}, 2)
    assert model.branch.mixture is None and all(p.requires_grad for p in model.branch.parameters())


def test_dropout_is_of_training_only(home):
    assert start(home, name=str(home / "model"), dropout=0.3).model().decoder.sizes.dropout == 0.3


def test_whisper_needs_text_that_cuts_its_vocabulary(home):
    with pytest.raises(ValueError, match=r"start\.sentences"):
        start(home, sentences=None).model()


# -- what it learns from -----------------------------------------------------------------------------------


def test_a_store_says_which_features_it_holds(home):
    store = FeatureStore(home / "train", "whisper")
    assert float(store.features(0).mean().abs()) > 0.01  # as Whisper has them, not normalised
    with pytest.raises(ValueError, match="holds whisper features, the model reads log_mel"):
        FeatureStore(home / "train")
    with pytest.raises(ValueError, match="another folder"):
        write_shard(home / "train", 1, [], [])


def test_padded_features_are_those_of_a_padded_wave():
    wave = torch.from_numpy(load(SAMPLE))[:32000]
    padded, own = whisper_log_mel(torch.nn.functional.pad(wave, (0, 16000))), whisper_log_mel(wave)
    assert torch.allclose(padded[210:], torch.tensor(silence(own)), atol=1e-3)


def test_batches_have_targets_for_both_parts(home):
    model = HybridModel.from_pretrained(home / "model")
    batches = WrittenBatches(data(home, "aligned"), model, 0)
    batch = batches.load(batches.plan(0, 0, 1)[0])
    texts = [model.units.decode(row[:n].tolist()) for row, n in zip(batch["units"], batch["unit_lengths"], strict=True)]
    assert set(texts) <= {example.text for example in batches.stores[0].examples}
    assert [model.tokenizer.decode(row.tolist()) for row in batch["inputs"]] == texts
    steps = model(batch["features"], batch["lengths"])[3]
    assert batch["labels"].shape[1] == int(steps.max()) and (batch["labels"] > 0).any()
    padded = WrittenBatches(data(home, "aligned"), model, 0, padded=True)
    assert padded.load(padded.plan(0, 0, 1)[0])["lengths"].unique().tolist() == [100 * SECONDS]


def test_masks_have_the_mean_of_the_features(home):
    model = HybridModel.from_pretrained(home / "model")
    masks = SpecAugment(frequency_masks=4, frequency_width=15, time_masks=0)
    batches = WrittenBatches(data(home, "train", spec_augment=masks), model, 0)
    features = batches.stores[0].features(0)
    masked = batches._masked(features, seeded(3))
    bands = (masked - features.mean()).abs().max(0).values < 1e-5
    assert 0 < bands.sum() < 80 and torch.allclose(masked[:, ~bands], features[:, ~bands], atol=1e-5)


def test_what_cannot_be_learned_is_left_out_and_said(home, tmp_path, capsys):
    frames = np.random.default_rng(0).standard_normal((20, 80))
    texts = ("", "abba cab dad bead face babe cafe deed fed bad", "cab")
    examples = [{"id": str(i), "text": text, "speaker": "toy"} for i, text in enumerate(texts)]
    write_shard(tmp_path / "store", 0, examples, [frames] * 3, "whisper")
    batches = WrittenBatches(data(tmp_path, "store", validation=str(home / "train")), _model(home), 0)
    assert {item for plan in batches.plan(0, 0, 1) for item in plan.items} == {(0, 2)}
    said = capsys.readouterr().err
    assert "2 of 3 utterances left out" in said and "neither case nor punctuation" in said


def _model(home):
    return HybridModel.from_pretrained(home / "model")


# -- labels of frames --------------------------------------------------------------------------------------


def test_units_share_the_time_of_their_word(home):
    units = Tokenizer.load(home / "units.json")
    (cab,), (dad,) = units.encode("cab"), units.encode("dad")
    assert frame_labels(["cab", "dad"], [(4, 12), (16, 24)], units, 7, 4) == [0, cab, cab, 0, dad, dad, 0]
    again = frame_labels(["cab", "cab"], [(0, 8), (8, 16)], units, 4, 4)
    assert again == [cab, cab, 0, cab]  # a blank between equals
    assert frame_labels(["5", "dad"], [None, (8, 16)], units, 5, 4) == [IGNORED, IGNORED, dad, dad, 0]
    assert frame_labels(["dad", "5"], [(0, 8), None], units, 4, 4) == [dad, dad, IGNORED, IGNORED]
    assert frame_labels(["dad"], None, units, 3, 4) == [IGNORED] * 3
    assert frame_labels(["dad"], [(90, 99)], units, 3, 4) == [0, 0, 0]  # behind the end


def test_words_are_placed_by_the_shipped_recogniser():
    text = "The young men and women were determined to secure an education at any cost"
    wave = load(SAMPLE)
    spans = Aligner("tiny").spans(wave, text.replace("and", "&"))
    assert len(spans) == len(text.split()) - 1  # the sign is no written word
    assert all(a < b for a, b in spans) and all(x[1] <= y[0] for x, y in zip(spans, spans[1:], strict=False))
    frames = len(wave) // 160
    assert spans[0][0] < 0.2 * frames and 0.7 * frames < spans[-1][0] and spans[-1][1] <= frames


def test_frames_first_then_ctc(home):
    task = HybridTask(start(home, name=str(home / "model")), data(home, "aligned", "train"), label_steps=2)
    batch = task.load(task.train_batches(0, 0, 1)[0])
    (first, logs), (_, later) = (task.loss(task.model.eval(), {**batch, "step": step}) for step in (0, 2))
    assert set(logs) == {"labels", "decoder"} and set(later) == {"ctc", "decoder"} and torch.isfinite(first)
    assert float(first.detach()) == pytest.approx(0.4 * logs["labels"] + 0.6 * logs["decoder"], rel=1e-4)
    with pytest.raises(ValueError, match="--align"):
        HybridTask(start(home, name=str(home / "model")), data(home, "train"), label_steps=2)


def test_a_branch_imitates_that_of_a_teacher(home, tmp_path):
    teacher, same = str(home / "model"), start(home, name=str(home / "model"))
    task = HybridTask(same, data(home, "train"), ctc=1.0, teacher=teacher)
    batch = task.load(task.train_batches(0, 0, 1)[0])
    loss, logs = task.loss(task.model.eval(), {**batch, "step": 0})
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5) and set(logs) == {"imitation"}
    torch.nn.init.zeros_(task.model.branch.head.weight)
    optimiser = torch.optim.Adam(task.model.branch.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss, _ = task.loss(task.model, {**batch, "step": 0})
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    fewer = Tokenizer.train(["abba", "cab"], 8)
    (tmp_path / "units.json").write_text(fewer.definition, encoding="utf-8")
    with pytest.raises(ValueError, match="both must be the same"):
        HybridTask(start(home, units=str(tmp_path / "units.json")), data(home, "train"), teacher=teacher)


def test_frozen_parts_do_not_learn_and_stores_without_share_are_not_read(home):
    folders = [Share(str(home / "train"), 1.0), Share(str(home / "nowhere"), 0.0)]
    sets = SpeechData(stores=folders, validation=str(home / "train"), validation_utterances=2)
    task = HybridTask(start(home, name=str(home / "model")), sets, frozen=["decoder.embedding", "encoder"])
    trained = {name.split(".")[0] for name, p in task.model.named_parameters() if p.requires_grad}
    assert trained == {"branch", "decoder"} and not task.model.decoder.embedding.weight.requires_grad
    assert set(task.validate(task.model.eval())) == {"wer", "wer_ctc"}
