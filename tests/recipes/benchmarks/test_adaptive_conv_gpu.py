"""The GPU benchmark of adaptive convolution, with another clock and on a CPU."""

import json

import pytest
import torch

from recipes.benchmarks import adaptive_conv_gpu as benchmark
from recipes.benchmarks._convolutions import ADAPTCRN, OURS


@pytest.fixture
def clock():
    """Calls once; the time is the number of tensors that came back."""

    def times(call):
        result = call()
        return 1.0 if isinstance(result, torch.Tensor) else float(sum(t is not None for t in result))

    return times


def test_every_candidate_gives_a_forward_and_a_backward_time(clock, tmp_path):
    results = benchmark.measure_layer(ADAPTCRN[2], 1, 4, "cpu", clock, compiled=False)
    assert [r.both_ms for r in results if r.candidate == OURS] == [4.0]  # x, attention, weight, bias
    assert len(results) == 4 and all(r.forward_ms == 1 for r in results)
    benchmark.write(results, tmp_path / "out" / "a.json")
    assert json.loads((tmp_path / "out" / "a.json").read_text())[0]["layer"] == ADAPTCRN[2].name
    assert benchmark.report(results).count("\n") >= 4


def test_the_network_runs_with_layers_of_each_backend(clock):
    results = benchmark.measure_network(1, 3, "cpu", clock, ("cpu", "naive"))
    assert [r.candidate for r in results] == ["cpu", "naive"] and len({r.both_ms for r in results}) == 1


def test_without_a_gpu_it_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert benchmark.main([]) == 1 and "no CUDA GPU" in capsys.readouterr().err
