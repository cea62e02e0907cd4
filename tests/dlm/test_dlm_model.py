"""The correction model: sizes, caching, padding, storage."""

import pytest
import torch

from dlm.decoding import encode, score_texts
from dlm.model import DenoisingLM, padded
from recipes.training.build import build, compose


def parameters(experiment: str, units: str = "characters") -> int:
    with torch.device("meta"):
        model = DenoisingLM.create(build(compose([f"experiment={experiment}"]).model), units)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("millions", [69, 155, 484])
def test_paper_sizes(millions):
    assert parameters(f"dlm_{millions}m") == pytest.approx(millions * 1e6, rel=0.03)


def test_rival_has_the_same_size_and_fits_the_package():
    from recipes.training.dry_run import units_of

    units = units_of("units256.json")
    own, rival = parameters("dlm_compact", units), parameters("lm_compact", units)
    assert rival == pytest.approx(own, rel=0.03)
    assert own * 2 < 9e6  # bytes in half precision


@pytest.mark.parametrize("encoder_layers", [0, 2])
def test_cached_steps_equal_one_pass(make_dlm, encoder_layers):
    model = make_dlm(encoder_layers=encoder_layers)
    source = encode(model, ["he said so", "no"])
    target = padded([[2, *model.units.encode("he said")], [2, *model.units.encode("no sir ")]])
    whole = model(source, target)
    assert whole.shape == (2, 8, len(model.units)) and torch.allclose(whole.exp().sum(-1), torch.ones(2, 8))
    state = model.start(source, 2)
    for position in range(8):
        step, state = model.step(target[:, position], state)
        assert torch.allclose(step, whole[:, position], atol=1e-5)


def test_padding_changes_no_score(make_dlm):
    model = make_dlm()
    together = score_texts(model, ["a long hypothesis here", "no"], ["a long text here", "not"])
    alone = score_texts(model, ["no"], ["not"])
    assert together[1] == pytest.approx(alone[0], abs=1e-4)
    assert together[0] < 0


def test_hypothesis_matters_to_a_correction_model_only(make_dlm):
    for layers, differs in ((2, True), (0, False)):
        model = make_dlm(encoder_layers=layers)
        first, second = score_texts(model, ["yes", "maybe"], ["same", "same"])
        assert (abs(first - second) > 1e-4) == differs


def test_dropped_layers_have_a_gradient_of_zero(make_dlm):
    model = make_dlm(layer_drop=1.0).train()
    batch = {"source": encode(model, ["so"]), "target": padded([[2, *model.units.encode("so"), 2]])}
    model.loss(batch)[0].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not any(p.grad.any() for layer in (*model.encoder, *model.decoder) for p in layer.parameters())


def test_storage_keeps_sizes_units_and_scores(make_dlm, tmp_path):
    model = make_dlm()
    model.save_half(tmp_path)
    loaded = DenoisingLM.from_pretrained(tmp_path).eval()
    assert loaded.config == model.config and loaded.units.definition == "characters"
    before, after = (score_texts(m, ["he said"], ["he sat"])[0] for m in (model, loaded))
    assert after == pytest.approx(before, rel=0.01)
    assert loaded.embedding.weight.dtype == torch.float32


def test_an_untrained_model_begins_as_a_rough_copy(make_dlm):
    model = make_dlm(width=128, encoder_layers=2)
    texts = ["he said so", "nothing new", "once a year"]
    own = score_texts(model, texts, texts)
    others = score_texts(model, texts, [*texts[1:], texts[0]])
    assert sum(own) > sum(others) + 20
