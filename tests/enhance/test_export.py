import pytest
import torch

from enhance.loading import load_enhancer
from enhance.networks.gtcrn import GTCRN, GTCRNConfig
from enhance.networks.overlap_add import OverlapAdd

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adaptcrn", "gtcrn adaptive"])
def test_onnx_step_equals_torch(name, adaptcrn, hum, tmp_path):
    from enhance.export import export_onnx
    from enhance.onnx_step import OnnxEnhancer

    torch.manual_seed(1)
    model = adaptcrn if name == "adaptcrn" else GTCRN(GTCRNConfig(num_kernels=8)).eval()
    path, wave = tmp_path / "step.onnx", torch.from_numpy(hum(16_000))
    export_onnx(model, path)
    onnx = load_enhancer(path)
    assert isinstance(onnx, OnnxEnhancer) and onnx.initial_state().keys() == model.initial_state().keys()
    torch.testing.assert_close(OverlapAdd(onnx).whole(wave), model.enhance(wave), atol=1e-5, rtol=1e-4)
    if name == "adaptcrn":
        assert OverlapAdd(onnx).whole(torch.zeros(1, 4000)).abs().max() == 0  # digital silence
    with pytest.raises(ValueError, match="2 channels"):
        onnx(torch.zeros(2, 1, 257, 2))


@pytest.mark.slow
def test_eight_bits_are_smaller_and_close(saved_model, hum, tmp_path):
    from enhance.export import main

    whole, small = tmp_path / "step.onnx", tmp_path / "step.int8.onnx"
    assert main([str(whole), "--model", str(saved_model)]) == 0
    assert main([str(small), "--model", str(saved_model), "--int8"]) == 0
    assert small.stat().st_size < 0.5 * whole.stat().st_size
    wave = torch.from_numpy(hum(16_000))
    expected, enhanced = (OverlapAdd(load_enhancer(path)).whole(wave) for path in (whole, small))
    error = (enhanced - expected).square().sum() / expected.square().sum()
    assert 0 < error < 0.01
    assert OverlapAdd(load_enhancer(small)).whole(torch.zeros(1, 4000)).abs().max() == 0


def test_missing_graph_tells_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="enhance.export"):
        load_enhancer(tmp_path / "no.onnx")
