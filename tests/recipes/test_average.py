"""Averages of models as a user makes them."""

import pytest
import torch

from asr.loading import shipped
from enhance.loading import load_enhancer
from enhance.networks.adaptcrn import AdaptCRN, AdaptCRNConfig
from recipes.average import main


def test_the_average_lies_between_both_and_loads(tmp_path, capsys):
    for seed, name in enumerate(("after", "before")):
        torch.manual_seed(seed)
        AdaptCRN(AdaptCRNConfig(num_kernels=2)).save_half(tmp_path / name)
    AdaptCRN(AdaptCRNConfig(num_kernels=3)).save_half(tmp_path / "other")
    folders = [str(tmp_path / name) for name in ("after", "before", "out")]
    assert main([*folders, "--share", "0.75"]) == 0
    after, before, out = (load_enhancer(folder).state_dict() for folder in folders)
    for name, value in out.items():
        assert torch.allclose(value.float(), 0.75 * after[name] + 0.25 * before[name], atol=2e-3), name
    for arguments, said in (
        ([folders[0], str(tmp_path / "other"), folders[2]], "not alike"),
        ([folders[0], str(shipped(None)), folders[2]], "8-bit weights"),
        ([*folders, "--share", "2"], "--share is 2.0"),
        ([folders[0], str(tmp_path / "none"), folders[2]], "has no model.safetensors"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert said in capsys.readouterr().err
