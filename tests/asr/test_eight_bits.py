import pytest
import torch
from torch import nn

from asr import eight_bits
from asr.hub import HubModel
from asr.hybrid.model import HybridModel


def test_a_model_in_eight_bits_is_nearly_itself(hybrid_folder, tmp_path):
    model = HybridModel.from_pretrained(hybrid_folder).eval()
    model.save_eight_bits(tmp_path)
    again = HybridModel.from_pretrained(tmp_path).eval()
    for name, value in model.state_dict().items():
        bound = value.abs().max() / 250 + 1e-6
        assert (again.state_dict()[name] - value).abs().max() <= bound, name
    whole, small = (sum(f.stat().st_size for f in folder.glob("*.safetensors")) for folder in (hybrid_folder, tmp_path))
    assert small < 0.5 * whole
    wave = torch.randn(12_000) * 0.1
    with torch.inference_mode():
        first, second = (m(*m.features([wave]))[2].exp() for m in (model, again))
    assert (first - second).abs().max() < 0.05


class Scaled(nn.Module, HubModel):
    """A model one of whose weights has the name of what 8-bit files add."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.layer, self.scale = nn.Linear(width, width), nn.Parameter(torch.zeros(width))
        self.again = nn.Linear(width, width, bias=False)
        self.again.weight = self.layer.weight


def test_a_weight_called_scale_is_kept(tmp_path):
    model = Scaled()
    nn.init.uniform_(model.scale)
    model.save_eight_bits(tmp_path)
    again = Scaled.from_pretrained(tmp_path)
    torch.testing.assert_close(again.scale, model.scale, atol=1e-3, rtol=0)
    assert again.again.weight is again.layer.weight


def test_a_file_that_lacks_a_weight_is_refused(tmp_path):
    model = Scaled()
    model.save_eight_bits(tmp_path)
    left = {name: value for name, value in model.state_dict().items() if name != "layer.bias"}
    eight_bits.save(left, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the weights lack layer.bias"):
        Scaled.from_pretrained(tmp_path)
