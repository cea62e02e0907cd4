import torch

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
