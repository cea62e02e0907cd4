"""Training, tuning and the benchmark of the correction system, on small data made on the spot."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import asr
from dlm.model import DenoisingLM, DenoisingLMConfig
from recipes import benchmark
from recipes.benchmarks.dlm import changed_words
from recipes.evaluation.rescoring import Heard, Rescoring
from recipes.tasks.correction import ConfusedText, CorrectionData, CorrectionTask, SynthesisedPairs, read_pairs

SAMPLE = Path(asr.__file__).parent / "sample.flac"
TEXT = "the young men and women were determined to secure an education at any cost"
SIZES = {"width": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 32}


@pytest.fixture
def pairs(tmp_path):
    """A folder of pairs: "he laft" for "he laught", one hopeless."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = [
        {"id": str(i), "text": "he laught at it", "hypotheses": [["he laft at it", -1.0], ["he left at it", -2.0]]}
        for i in range(20)
    ]
    rows.append({"id": "bad", "text": "he laught at it", "hypotheses": [["nothing of the kind was said", -9.0]]})
    (folder / "00000.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(folder)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(["they laught aloud", "a second sentence", "x" * 400]) + "\n")
    return str(path)


def make_task(pairs, text, encoder_layers=1, **options):
    sources = [SynthesisedPairs([pairs], 0.7), ConfusedText(text, [pairs], 0.3)]
    data = CorrectionData(sources, pairs, batch_tokens=200, epoch_tokens=2000, **options)
    return CorrectionTask(DenoisingLMConfig(**{**SIZES, "encoder_layers": encoder_layers}), data)


def test_hopeless_pairs_and_long_texts_are_left_out(pairs, text, capsys):
    source = SynthesisedPairs([pairs])
    assert len(source.texts) == 20 and "1 over 40% or too long left out" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    assert {source.hypothesis(0, rng) for _ in range(30)} == {"he laft at it", "he left at it"}
    assert SynthesisedPairs([pairs], nbest=1).hypothesis(0, rng) == "he laft at it"
    confused = ConfusedText(text, [pairs], rate=(1.0, 1.0))
    assert confused.texts == ["they laught aloud", "a second sentence"]
    assert {confused.hypothesis(0, rng) for _ in range(30)} == {"they laft aloud", "they laught aloud"}
    with pytest.raises(ValueError, match="none of 21 pairs"):
        SynthesisedPairs([pairs], worst=0.0)
    with pytest.raises(FileNotFoundError, match="dlm.synthesize"):
        read_pairs("nowhere")


def test_batches_hold_both_sources_and_stay_in_bounds(pairs, text):
    task = make_task(pairs, text, substitution=0.0)
    plans = task.train_batches(0, 0, 1)
    assert plans == task.train_batches(0, 0, 1) != task.train_batches(1, 0, 1)
    assert {source for plan in plans for source, _ in plan.items} == {0, 1}
    for plan in plans:
        batch = task.load(plan)
        assert batch["target"].numel() <= 260 and batch["target"][:, 0].eq(task.units.end_id).all()
        assert len(batch["source"]) == len(batch["target"])
        texts = {task.units.decode(row.tolist()) for row in batch["target"]}
        assert texts <= {"he laught at it", "they laught aloud", "a second sentence"}
        assert torch.equal(batch["source"], task.load(plan)["source"])


def test_a_share_of_the_source_is_substituted(pairs, text):
    tasks = [make_task(pairs, text, substitution=share) for share in (0.0, 0.5)]
    plan = tasks[0].train_batches(0, 0, 1)[0]
    clean, noisy = (task._substituted([10] * 2000, np.random.default_rng(0)) for task in tasks)
    assert clean == [10] * 2000 and 0.42 < np.mean(np.array(noisy) != 10) < 0.52
    assert min(noisy) >= 4 and max(noisy) < len(tasks[0].units)
    assert torch.equal(tasks[0].load(plan)["target"], tasks[1].load(plan)["target"])


def test_language_model_sees_the_texts_alone(pairs, text):
    task = make_task(pairs, text, encoder_layers=0)
    batch = task.load(task.train_batches(0, 0, 1)[0])
    assert set(batch) == {"target"}
    loss, logs = task.loss(task.model, batch)
    assert loss.isfinite() and logs["tokens"] == (batch["target"][:, 1:] != 0).sum()
    assert set(task.validate(task.model.eval())) == {"word_perplexity"}


def test_validation_of_an_untrained_model(pairs, text):
    metrics = make_task(pairs, text, validation_pairs=3).validate(make_task(pairs, text).model.eval())
    assert metrics["wer_before"] == pytest.approx((0.25 + 0.25 + 0.25) / 3, abs=0.01)
    assert metrics["wer"] >= 0 and metrics["word_perplexity"] > 100


def test_experiment_trains_and_resumes(tmp_path, pairs, text, train_and_resume):
    import lzma

    from recipes.training.dry_run import units_of

    data = tmp_path / "data"
    (data / "text").mkdir(parents=True)
    (data / "pairs").mkdir()
    (data / "text" / "train.txt.xz").write_bytes(lzma.compress(Path(text).read_bytes()))
    (data / "tokenizer256.json").write_text(units_of("units256.json"))
    for name in ("tts", "real", "dev"):
        (data / "pairs" / name).symlink_to(pairs)

    overrides = [
        "model.width=32", "model.feed_forward=32", "data.batch_tokens=200", "data.epoch_tokens=400",
        "trainer.precision=no",
    ]  # fmt: skip
    model = DenoisingLM.from_pretrained(train_and_resume("dlm_compact", overrides, data)[1])
    assert len(model.encoder) == 6 and len(model.units) == 256


# -- the benchmark -----------------------------------------------------------------------------------------


def heard(**scores) -> Heard:
    candidates = {text: {"asr": a, "dlm": d, "words": len(text.split())} for text, (a, d) in scores["texts"].items()}
    texts = list(candidates)
    return Heard(scores["reference"], "s", None, texts[0], 0.0, {"beam": texts}, candidates)


def test_rescoring_tunes_its_weight():
    item = heard(reference="a b", texts={"a c": (-1.0, -9.0), "a b": (-2.0, -1.0)})
    rescoring = Rescoring(("beam",), {"dlm": (0.0, 0.5)})
    assert rescoring.tune([item]) == {"dlm": 0.5}
    assert rescoring.apply([item], {"dlm": 0.5}) == ["a b"]
    assert rescoring.apply([item], {"dlm": 0.0}) == ["a c"]  # the recogniser's own choice
    assert rescoring.oracle([item]) == 0.0
    harmful = heard(reference="a c", texts={"a c": (-1.0, -9.0), "a b": (-2.0, -1.0)})
    assert rescoring.tune([harmful]) == {"dlm": 0.0}


def test_words_fixed_and_broken():
    from recipes.evaluation.word_changes import fixed_and_broken

    assert fixed_and_broken(["a b c"], ["a x c"], ["a b d"]) == (1, 1, 2)
    assert fixed_and_broken(["a b c"], ["a b c"], ["a b c"]) == (0, 0, 3)
    assert changed_words(["a b", "c d"], ["a b", "c"]) == 0.25


def test_benchmark_prints_and_writes(tmp_path, capsys):
    from recipes.tasks.large import load_units

    rows = [f"{speaker}-1\t{SAMPLE}\t{speaker}\t{TEXT}" for speaker in ("a", "b", "c", "d")]
    (tmp_path / "table.tsv").write_text("id\tpath\tspeaker\ttext\n" + "\n".join(rows) + "\n")
    (tmp_path / "other.tsv").write_text("id\ttext\na-1\tthe young men\nb-1\tthe old men\n")
    units = load_units(None).definition
    for name, layers in (("dlm", 1), ("lm", 0)):
        torch.manual_seed(0)
        DenoisingLM.create(DenoisingLMConfig(**{**SIZES, "encoder_layers": layers}), units).save_half(tmp_path / name)
    arguments = [
        "dlm", str(tmp_path / "table.tsv"), "--dlm", str(tmp_path / "dlm"), "--lm", str(tmp_path / "lm"),
        "--limit", "2", "--beam_size", "4", "--dlm_beam_size", "2", "--sum_hypotheses", "2", "--out",
        str(tmp_path / "out"), "--hypotheses", str(tmp_path / "other.tsv"), "--write_options",
    ]  # fmt: skip
    assert benchmark.main(arguments) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    systems = result["systems"]
    for name in ("greedy", "CTC beam", "n-gram fusion", "LM rescoring", "DLM greedy", "DLM guarded", "DSR", "DLM-sum"):
        assert name in printed and 0 <= systems[name]["wer"] <= 3 and len(systems[name]["by_confidence"]) == 3
    assert systems["greedy"]["fixed"] == systems["greedy"]["broken"] == 0
    assert systems["DSR"]["wer"] <= systems["greedy"]["wer"] and len(systems["DSR"]["minus"]["n-gram fusion"]) == 2
    assert result["weights"]["DLM guarded"]["references_changed"] <= 0.01
    assert min(result["oracle_wer"].values()) <= systems["greedy"]["wer"]
    other = result["others"][str(tmp_path / "other.tsv")]
    assert other["DLM guarded"]["wer"] <= 1
    written = json.loads((tmp_path / "dlm" / "config.json").read_text())["correction"]
    assert set(written) == {"scale", "ngram_scale", "bonus", "margin"}
