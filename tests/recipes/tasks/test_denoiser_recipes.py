"""Training of denoiser, twin and filter on the toy language, and the benchmark around them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import asr
from asr.audio.augment import seeded
from asr.dllm.network import DenoiserConfig
from recipes.data.speech_data import Share, SpeechData
from recipes.data.toy import say, write_store
from recipes.tasks.denoiser import DenoiserTask, TwinTask
from recipes.training.engine import Trainer, TrainerConfig
from recipes.training.optimisation import Optimisation


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    write_store(root / "train", 24, 0)
    write_store(root / "validation", 4, 1)
    return root


def make_task(kind, stores, recogniser):
    data = SpeechData(
        [Share(str(stores / "train"))], str(stores / "validation"), batch_seconds=4, epoch_hours=24 / 3600, shortest=0.1
    )
    decoder = DenoiserConfig(width=32, heads=2, layers=2, feed_forward=32)
    return kind(decoder, data, recogniser=str(recogniser))


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("kind", [DenoiserTask, TwinTask])
def test_training_resumes_to_the_same_losses(kind, stores, tiny_ctc_model, tmp_path):
    def run(name, steps):
        config = TrainerConfig(steps=steps, log_every=1, validate_every=100, checkpoint_every=100, progress=False)
        optimisation = Optimisation(warmup=1, decay=1e-6)
        Trainer(make_task(kind, stores, tiny_ctc_model), config, optimisation, tmp_path / name).fit()

    run("whole", 4)
    run("parts", 2)
    run("parts", 4)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    validation = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert validation["split"] == "validation" and {"wer", "wer_prior", "passes"} <= set(validation)


def test_loss_counts_masked_slots_over_their_probability(stores, tiny_ctc_model):
    """With every slot masked and uniform logits the loss is the logarithm of the vocabulary."""
    task = make_task(DenoiserTask, stores, tiny_ctc_model)
    task.corruption.full, task.corruption.prior = 1.0, 0.0
    with torch.no_grad():
        task.model.head.weight.zero_()
        task.model.head.bias.zero_()
    plan = task.train_batches(0, 0, 1)[0]
    loss, _ = task.loss(task.model, task.load(plan))
    assert float(loss.detach()) == pytest.approx(np.log(len(task.tokenizer)), abs=1e-4)
    task.corruption.full = 0.0  # random masks: an unbiased estimate of the same
    values = [
        float(task.loss(task.model, {**task.load(plan), "seed": torch.tensor([s, 0, 0])})[0].detach())
        for s in range(40)
    ]
    assert np.mean(values) == pytest.approx(np.log(len(task.tokenizer)), rel=0.15)


def test_filter_and_benchmark(stores, tiny_ctc_model, tiny_denoiser, tmp_path, capsys):
    from recipes import train_filter
    from recipes.benchmarks import dllm_asr

    arguments = [str(stores / "train"), "--denoiser", str(tiny_denoiser["dllm"]), "--recogniser", str(tiny_ctc_model)]
    assert train_filter.main([*arguments, "--utterances", "20", "--steps", "10"]) == 0
    assert (tiny_denoiser["dllm"] / "filter" / "config.json").exists()

    rng = seeded(3)
    with open(tmp_path / "table.tsv", "w", newline="") as file:
        rows = csv.writer(file, delimiter="\t")
        rows.writerow(["id", "path", "speaker", "text"])
        for i, text in enumerate(("bad cafe", "face", "dad abba cab")):
            soundfile.write(tmp_path / f"{i}.wav", say(text, rng), 16000)
            rows.writerow([i, f"{i}.wav", "s", text])
    systems = ["ctc", "mask_ctc_5", "ar", "speculative", "naive", "dllm", "no_prior", "learned", "oracle_length"]
    options = ["--recogniser", str(tiny_ctc_model), "--denoiser", str(tiny_denoiser["dllm"])]
    options += ["--twin", str(tiny_denoiser["ar"]), "--out", str(tmp_path / "out"), "--batch", "1", "2"]
    assert dllm_asr.main([str(tmp_path / "table.tsv"), *options, "--systems", *systems]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(result["batch_1"]) == set(systems) and set(result["batch_2"]) == {"ctc", "ar", "dllm"}
    assert result["batch_1"]["naive"]["passes"] == 32 and result["batch_1"]["speculative"]["wer"] == pytest.approx(
        result["batch_1"]["ar"]["wer"]
    )
    assert "oracle_length" in capsys.readouterr().out


def test_benchmark_of_the_default_model_leaves_out_what_it_cannot(tmp_path, capsys):
    from asr.loading import load_recogniser
    from recipes.benchmarks import dllm_asr

    made = dllm_asr.make_systems(load_recogniser("tiny", "cpu"), None, None, None)
    refused = {"fused", "elastic", "learned", "dllm_ngram"}
    assert set(made) == set(dllm_asr.SYSTEMS) - refused
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and all(f"{name} (" in line for name in refused)

    sample = Path(asr.__file__).parent / "sample.flac"
    (tmp_path / "table.tsv").write_text(f"id\tpath\ttext\n1\t{sample}\tThe young men and women were determined.\n")
    arguments = [str(tmp_path / "table.tsv"), "--batch", "1", "--systems"]
    systems = ["ctc", "mask_ctc_1", "mask_ctc_5", "no_slots", "oracle_length", "no_prior"]
    curve = ["--curve", "max_passes", "1", "2"]
    assert dllm_asr.main([*arguments, *systems, *curve, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "result.json").read_text())["batch_1"]
    assert set(rows) == {*systems, "max_passes 1", "max_passes 2"} and rows["max_passes 1"]["passes"] == 1
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        dllm_asr.main([*arguments, "ctc", "--curve", "max_passes", "-1"])
    assert "max_passes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        dllm_asr.main([*arguments, "ctc", "fused"])
    assert "error: system fused: decoder 'fused'" in capsys.readouterr().err


def test_operating_point_keeps_the_errors_rare():
    from recipes.training.commit_filter import operating_point

    scores = torch.linspace(0, 1, 101)
    threshold, share = operating_point(scores, scores > 0.5, error=0.0)
    assert threshold == pytest.approx(0.51) and share == pytest.approx(50 / 101)
    assert operating_point(scores, torch.zeros(101, dtype=torch.bool), 0.1) == (1.0, 0.0)
