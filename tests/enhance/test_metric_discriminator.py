import numpy as np
import pytest
import torch

from enhance.metric_discriminator import MetricDiscriminator, check_metric, scaled_scores


@pytest.fixture
def magnitudes():
    torch.manual_seed(0)
    clean = torch.rand(3, 40, 257)
    return clean, (clean + 0.5 * torch.rand_like(clean)).requires_grad_()


def test_each_side_is_trained_by_its_own_loss_only(magnitudes):
    judge, (clean, estimate) = MetricDiscriminator(), magnitudes
    own, towards = judge.losses(clean, estimate, torch.tensor([0.2, 0.4, 0.6]))
    own.backward(retain_graph=True)
    assert estimate.grad is None and all(p.grad.abs().sum() > 0 for p in judge.parameters() if p.grad.numel() > 1)
    judge.zero_grad()
    towards.backward()
    assert estimate.grad.abs().sum() > 0 and all(p.grad is None for p in judge.parameters())


def test_it_learns_scores_and_leaves_out_what_is_not_defined(magnitudes):
    judge, (clean, estimate) = MetricDiscriminator(), magnitudes
    scores = torch.tensor([0.1, float("nan"), 0.5])
    optimiser, losses = torch.optim.Adam(judge.parameters(), 3e-3), []
    for _ in range(60):
        own, towards = judge.losses(clean, estimate, scores)
        assert own.isfinite() and towards.isfinite()
        losses.append(float(own.detach()))
        optimiser.zero_grad()
        own.backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        judged, perfect = judge(clean, estimate), judge(clean, clean)
    assert judged[0] < judged[2] < perfect.min()


def test_scores_are_scaled_and_undefined_for_silence(hum):
    pytest.importorskip("pesq")
    clean = torch.from_numpy(np.stack([hum(16_000)[0], hum(16_000)[0], np.zeros(16_000, np.float32)]))
    noisy = clean.clone()
    noisy[1:] += 0.05 * torch.randn(2, 16_000)
    best, worse, undefined = scaled_scores("pesq", noisy, clean)
    assert best == pytest.approx(1, abs=0.01) and 0 <= worse < best and undefined.isnan()


def test_unknown_and_missing_metrics_are_named(monkeypatch):
    with pytest.raises(ValueError, match="pesq or dnsmos"):
        check_metric("stoi")
    monkeypatch.setattr("enhance.metrics.find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install pesq"):
        check_metric("pesq")
