"""The programs around a trained recogniser, run on the shipped model and the sample recording."""

import json
import shutil
from pathlib import Path

import pytest

import asr
from asr.loading import shipped
from recipes import benchmark, calibrate, evaluate, tune_beam
from recipes.evaluation.calibrate import right_words

SAMPLE = Path(asr.__file__).parent / "sample.flac"
TEXT = "the young men and women were determined to secure an education at any cost"


@pytest.fixture
def table(tmp_path):
    rows = [f"{speaker}-1\t{SAMPLE}\t{speaker}\t{TEXT}" for speaker in ("a", "b", "c", "d")]
    path = tmp_path / "table.tsv"
    path.write_text("id\tpath\tspeaker\ttext\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def model(tmp_path):
    """A copy of the shipped model whose config may be rewritten."""
    return Path(shutil.copytree(shipped(None), tmp_path / "model"))


def test_evaluate_reports_and_writes_json(table, tmp_path, capsys):
    shutil.copy(SAMPLE, tmp_path / "d.flac")
    table.write_text(table.read_text().replace(f"d-1\t{SAMPLE}", "d-1\td.flac"))  # three rows name one file
    assert evaluate.main(["asr=greedy", f"data={table}", f"output={tmp_path / 'result.json'}"]) == 0
    assert "WER" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["utterances"] == 4 and len(set(result["hypotheses"].values())) == 1
    assert 0 <= result["scores"][0]["wer"] < 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["data=x"],
        ["asr=greedy", "enhance=adaptcrn", "data=x"],
        ["asr=greedy", "dat=x"],
        ["asr=greedy", "data=x", "shard_count=2"],
        ["asr=greedy", "data=x", "output=y.json", "shard_count=2", "shard_index=2"],
    ],
)
def test_evaluate_refuses_what_it_cannot_do(arguments, capsys):
    assert evaluate.main(arguments) == 2
    assert capsys.readouterr().err.startswith("recipes.evaluate:")


def test_tuning_writes_the_best_pair(table, model, capsys):
    assert (
        tune_beam.main([str(table), "--model", str(model), "--weights", "0", "0.5", "--bonuses", "0.5", "--limit", "1"])
        == 0
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "WER" in line]
    best = min(lines, key=lambda line: float(line.split("WER ")[1]))
    beam = json.loads((model / "config.json").read_text())["beam"]
    assert f"lm_weight {beam['lm_weight']} token_bonus {beam['token_bonus']}" in best


def test_calibration_is_written_for_every_decoder(table, model, capsys):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "calibration": {"ar": [1.0, 0.0]}}))
    assert calibrate.main([str(table), "--model", str(model)]) == 0
    assert capsys.readouterr().out.count("expected calibration error") == 2
    assert set(json.loads((model / "config.json").read_text())["calibration"]) == {"ar", "greedy", "beam"}


def test_right_words():
    assert right_words("the cat sat down", "the bat sat") == [True, False, True]
    assert right_words("the cat", "") == []


def test_unknown_benchmark(capsys):
    assert benchmark.main(["nothing"]) == 2
    assert "asr_peers" in capsys.readouterr().err
