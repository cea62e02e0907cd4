"""What the large tasks teach: which slots are masked, how the loss is weighed, that it falls."""

import numpy as np
import pytest
import soundfile
import torch

from asr.audio.augment import seeded
from asr.parts import Listened
from asr.pretrained.config import LanguagePart, LargeASRConfig, LoRA, Part
from asr.pretrained.model import LargeASR
from recipes.data.table_data import TableData
from recipes.data.toy import say, sentences
from recipes.tasks.large import IGNORED, Corruption, LargeDenoiserTask, LargeTwinTask
from recipes.training.toy_parts import EMPTY, language_model, whisper


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.manual_seed(0)
    root, rng = tmp_path_factory.mktemp("large_task"), seeded(0)
    texts, rows = sentences(100, rng), ["id\tpath\ttext"]
    for i, text in enumerate(texts[:6]):
        soundfile.write(root / f"{i}.wav", say(text, rng), 16000)
        rows.append(f"{i}\t{i}.wav\t{text}")
    (root / "table.tsv").write_text("\n".join(rows) + "\n")
    whisper(root / "whisper")
    language_model(root / "llama", "llama", texts, chat=True)
    return root


def make(made, kind="decoder", task=LargeDenoiserTask, lora=None, train=False, **options):
    null = {"null_token": EMPTY} if kind == "decoder" else {}
    language = LanguagePart(str(made / "llama"), kind=kind, train=train, **null)
    config = LargeASRConfig(Part(str(made / "whisper")), language, lora=lora)
    table = str(made / "table.tsv")
    data = TableData(table, table, batch_seconds=20, shortest=0.1, validation_utterances=2)
    return task(config, data, **options)


def test_answers_and_their_ends_are_masked_and_nothing_else(made):
    task = make(made, corruption=Corruption(full=0.25, tail=6))
    tokens, rng = task.model.tokens, np.random.default_rng(0)
    answer, whole = tokens.encode("abba cab"), 0
    for _ in range(400):
        layout, wanted, probability = task._example(task.model, "abba cab", torch.zeros(5, 3), rng)
        assert wanted[: len(answer)] == answer and set(wanted[len(answer) :]) == {tokens.end}
        assert 1 <= len(wanted) - len(answer) <= 6 and 0 < probability <= 1
        assert all(have in (want, tokens.mask) for have, want in zip(layout.tokens, wanted, strict=True))
        whole += probability == 1.0
    assert 0.18 < whole / 400 < 0.32


def test_the_loss_is_cross_entropy_over_the_mask_probability(made):
    """Uniform logits: a masked slot costs log(vocabulary), so the loss is known but for which slots are masked."""
    task = make(made, corruption=Corruption(full=1.0))
    batch = task.load(task.train_batches(0, 0, 1)[0])
    model = task.model
    vocabulary = model.language_model.vocabulary
    seen = {}

    def uniform(canvas, speech, valid):
        seen["canvas"], seen["valid"] = canvas, valid
        return torch.zeros(*canvas.shape, vocabulary)

    model.denoise = uniform
    frames, lengths = model.listen({k[3:]: v for k, v in batch.items() if k.startswith("in:")})
    loss = task.text_loss(model, batch, Listened(frames, lengths, [torch.zeros(1, 1)] * len(frames)))
    assert (seen["canvas"][seen["valid"]] == model.tokens.mask).all()  # full: every slot
    assert float(loss) == pytest.approx(np.log(vocabulary), rel=1e-5)


def test_drafts_teach_empty_slots(made):
    task = make(made, corruption=Corruption(full=0.0, prior=1.0, thresholds=(1.0, 1.0)))
    model, units = task.model, task.tokenizer
    ids = units.encode("abba cab bad")
    frames = torch.full((2 * len(ids), len(units)), 1e-4)
    for i, token in enumerate(ids):
        frames[2 * i, token], frames[2 * i + 1, 0] = 0.5, 0.9
    layout, wanted, _ = task._example(model, "abba bad", frames.log(), np.random.default_rng(0))
    special = {model.tokens.null, model.tokens.end}
    assert [w for w in wanted if w not in special] == model.tokens.encode("abba bad")
    assert model.tokens.null in wanted and IGNORED not in wanted
    assert set(layout.tokens) == {model.tokens.mask}


@pytest.mark.parametrize("kind", ["decoder", "causal"])
def test_training_lowers_the_loss(made, kind):
    if kind == "decoder":
        task = make(made, corruption=Corruption(full=1.0), train=True)
    else:
        task = make(made, "causal", LargeTwinTask, train=True)
    batch = task.load(task.train_batches(0, 0, 1)[0])
    trained = [p for p in task.model.parameters() if p.requires_grad]
    optimiser, losses = torch.optim.AdamW(trained, 1e-2), []
    for _ in range(12):
        loss, parts = task.loss(task.model.train(), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(parts["text"])
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is None for p in task.model.encoder.parameters())


def test_the_second_stage_starts_from_the_projector_of_the_first(made, tmp_path):
    first = make(made)
    with torch.no_grad():
        first.model.projector.out.weight.fill_(0.25)
    first.export(first.model, tmp_path)
    second = make(made, lora=LoRA(rank=2), init=str(tmp_path))
    assert (second.model.projector.out.weight == 0.25).all()
    assert any("lora_" in name for name, p in second.model.named_parameters() if p.requires_grad)
    assert LargeASR.from_pretrained(tmp_path).config.lora is None


def test_eva_looks_at_the_training_data(made):
    plain, eva = (make(made, lora=LoRA(rank=2, start=start)) for start in ("default", "eva"))
    first, second = (
        task.model.language_model.network.model.layers[0].mlp.up_proj.lora_A["default"].weight for task in (plain, eva)
    )
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second @ second.T, torch.eye(2), atol=1e-3, rtol=1e-3)


def test_a_task_refuses_the_other_kind_of_language_model(made):
    with pytest.raises(ValueError, match="LargeDenoiserTask cannot train a language model of kind 'causal'"):
        make(made, "causal")
