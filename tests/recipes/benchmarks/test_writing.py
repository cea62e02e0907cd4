"""The benchmark of the writing model, on the hand-made one of the tests."""

import json

import pytest

from dlm.tags import tagged
from recipes import benchmark
from recipes.benchmarks.writing import f1_of
from tests.dlm.conftest import writing_model  # noqa: F401, a fixture


def test_f1_counts_tags():
    said = tagged("Yes, he did. Did he?")
    assert set(f1_of(said, (said.marks, said.cases)).values()) == {1.0}
    nothing = f1_of(said, ([0] * 5, [0] * 5))
    assert set(nothing.values()) == {0.0}
    assert f1_of(said, ([1, 0, 2, 0, 2], said.cases)) == {"ends": 1.0, "commas": 1.0, "questions": 0.0, "capitals": 1.0}


@pytest.mark.parametrize("tune", [True, False])
def test_benchmark_tunes_and_reports(writing_model, tmp_path, capsys, tune):  # noqa: F811
    model, out = tmp_path / "model", tmp_path / "result.json"
    writing_model.save_pretrained(model)
    (tmp_path / "text.txt").write_text("\n".join(["A c x. D k, c x.", "A d x. C a k, a x."] * 10))
    (tmp_path / "pairs").mkdir()
    row = {"text": "A x. C k, d.", "hypotheses": [["a x c k d", -1.0]]}
    (tmp_path / "pairs" / "0.jsonl").write_text(json.dumps(row) + "\n")
    arguments = [str(tmp_path / "text.txt"), "--model", str(model), "--pairs", str(tmp_path / "pairs")]
    assert benchmark.main(["writing", *arguments, "--out", str(out), "--rates", "0.3", *["--tune"] * tune]) == 0
    result = json.loads(out.read_text())
    assert result["f1"]["running text"] == {"ends": 1.0, "commas": 1.0, "questions": 0.0, "capitals": 1.0}
    assert result["f1"]["recognised"] == {"ends": 1.0, "commas": 1.0, "questions": None, "capitals": 1.0}
    assert 0.3 < result["f1"]["30% of words misheard"]["ends"] < 1.0
    assert bool(json.loads((model / "config.json").read_text())["options"]) == tune
    assert "running text" in capsys.readouterr().out
