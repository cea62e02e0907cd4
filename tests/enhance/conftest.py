"""A small trained-like AdaptCRN (drawn batch-norm statistics, lively masks) and synthetic speech-like sound."""

import numpy as np
import pytest
import torch
from torch import nn

from enhance.networks.adaptcrn import AdaptCRN, AdaptCRNConfig
from enhance.networks.gtcrn import GTCRN, GTCRNConfig


def lively(network: nn.Module) -> nn.Module:
    """Batch normalisation as after training, so that folding it and forgetting it differ."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias, std=0.5)
    return network.eval()


NETWORKS = {
    "adaptcrn": lambda: AdaptCRN(),
    "adaptcrn single-frame": lambda: AdaptCRN(AdaptCRNConfig(attention="single")),
    "adaptcrn multi-frame": lambda: AdaptCRN(AdaptCRNConfig(attention="multi")),
    "adaptcrn plain": lambda: AdaptCRN(AdaptCRNConfig(num_kernels=1)),
    "gtcrn": lambda: GTCRN(),
    "gtcrn adaptive": lambda: GTCRN(GTCRNConfig(num_kernels=8)),
}


@pytest.fixture(params=NETWORKS, scope="session")
def network(request):
    torch.manual_seed(1)
    return lively(NETWORKS[request.param]())


@pytest.fixture(scope="session")
def adaptcrn():
    torch.manual_seed(1)
    return lively(AdaptCRN())


@pytest.fixture
def hum():
    """hum(samples, rate=16000, channels=1) -> gliding harmonics in noise, [channels, samples]."""

    def make(samples: int, rate: int = 16_000, channels: int = 1) -> np.ndarray:
        rng = np.random.default_rng(samples)
        time = np.arange(samples) / rate
        voice = sum(np.sin(2 * np.pi * k * (120 * time + 20 * np.sin(3 * time))) / k for k in range(1, 9))
        return (0.05 * voice + 0.03 * rng.standard_normal((channels, samples))).astype(np.float32)

    return make


@pytest.fixture
def saved_model(adaptcrn, tmp_path):
    adaptcrn.save_pretrained(tmp_path / "model")
    return tmp_path / "model"
