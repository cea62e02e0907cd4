"""Small models of the correction system, random or trained for a moment."""

import pytest
import torch

from dlm.model import DenoisingLM, DenoisingLMConfig


@pytest.fixture
def make_dlm():
    """make_dlm(**sizes) -> a tiny random model of characters, in evaluation mode."""

    def make(**sizes) -> DenoisingLM:
        torch.manual_seed(0)
        config = {"width": 32, "heads": 2, "encoder_layers": 2, "decoder_layers": 2, "feed_forward": 48, **sizes}
        return DenoisingLM.create(DenoisingLMConfig(**config)).eval()

    return make


@pytest.fixture(scope="session")
def copying_dlm():
    """A tiny model that has learned to copy "a" and "b" words and to turn every "x" into "a"."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what it learns must not depend on how many threads add up the sums
    torch.manual_seed(0)
    config = DenoisingLMConfig(32, 2, 1, 1, 64, dropout=0.0, layer_drop=0.0)
    model = DenoisingLM.create(config)
    from dlm.model import padded

    optimiser = torch.optim.Adam(model.parameters(), 4e-3)
    generator, end = torch.Generator().manual_seed(0), model.units.end_id
    for _ in range(400):
        sources, targets = [], []
        for _ in range(32):
            letters = torch.randint(0, 3, (int(torch.randint(1, 7, (), generator=generator)),), generator=generator)
            text = "".join("abx"[i] for i in letters)
            sources.append([*model.units.encode(text), end])
            targets.append([end, *model.units.encode(text.replace("x", "a")), end])
        loss, _ = model.loss({"source": padded(sources), "target": padded(targets)})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.set_num_threads(threads)
    return model.eval()
