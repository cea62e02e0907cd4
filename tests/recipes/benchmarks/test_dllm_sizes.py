"""The benchmark of decoder sizes on sizes that take no time."""

import json

import pytest
import torch

from recipes import benchmark
from recipes.benchmarks.dllm_sizes import Work, denoiser, make, twin


@pytest.mark.parametrize("compute_type", ["float32", "int8"])
def test_rows_and_figure(tmp_path, capsys, compute_type):
    small = ["--widths", "64", "128", "--layers", "1", "2", "--seconds", "2", "--vocabulary", "40", "--repeats", "1"]
    assert benchmark.main(["dllm_sizes", *small, "--compute_type", compute_type, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [(row["width"], row["layers"]) for row in rows] == [(64, 1), (64, 2), (128, 1), (128, 2)]
    assert all(row["factor"] == pytest.approx(row["twin"] / row["denoiser"]) for row in rows)
    assert rows[-1]["weights"] > rows[-2]["weights"] > rows[0]["weights"]
    assert (tmp_path / "factor.png").read_bytes().startswith(b"\x89PNG")
    assert "times faster" in capsys.readouterr().out


def test_both_do_the_work_they_are_given():
    work = Work(2.0, 3.0, (1.0, 0.5))
    assert (work.frames, work.tokens, work.slots) == (100, 6, 12)
    model, _ = make(64, 1, 40, "float32")
    steps, passes = [], []
    extend, denoise = model.decoder.extend, model.denoise
    model.decoder.extend = lambda *given: steps.append(given[0].shape[1]) or extend(*given)
    model.denoise = lambda canvas, speech, **given: passes.append(given["active"]) or denoise(canvas, speech, **given)
    with torch.inference_mode():
        twin(model.decoder, torch.randn(1, 100, 64), work)
        denoiser(model, torch.randn(1, 100, 64), work)
    assert steps == [1] * 7
    assert passes[0] is None and passes[1].shape == (1, 6)


REFUSED = [(["--widths", "100"], "multiple of 64"), (["--open", "2"], "at most 1")]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_measured_is_refused(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["dllm_sizes", *options])
    assert stop.value.code == 2 and message in capsys.readouterr().err
