"""Small models of the correction system, random or trained for a moment."""

import pytest
import torch

from dlm.model import DenoisingLM, DenoisingLMConfig
from dlm.tags import CAPITAL, FULL_STOP, LOWER, MARKS
from dlm.writing import WritingModel

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{c}" for c in LETTERS)]
SIZES = {"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
         "max_position_embeddings": 512, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip


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


@pytest.fixture(scope="session")
def writing_model():
    """A model that ends a sentence behind every "x", puts a comma behind every "k" and knows the name "b".

    Its weights are set by hand: the encoder passes each word's embedding through.
    """
    torch.manual_seed(0)
    model = WritingModel(SIZES, "\n".join(PIECES), {"b": "BoB"}).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "output.dense" in name or "position" in name or "token_type" in name or not name.startswith("encoder"):
                weight.zero_()
        torch.nn.init.orthogonal_(model.encoder.embeddings.word_embeddings.weight)
        x, k, bob = (_seen(model, word) for word in "xkb")
        model.mark.weight[FULL_STOP], model.mark.weight[MARKS.index(",")] = x, k
        model.mark.bias[0], model.mark.bias[FULL_STOP] = 0.5, 0.1
        model.look.weight[0], model.before.weight[FULL_STOP, 0] = bob, 1.0
        model.case.weight[CAPITAL, 0], model.case.bias[LOWER] = 1.0, 0.4
    return model


def _seen(model, word):
    """What in the encoder's output is 1 for a word of one letter and 0 for others."""
    hidden = model.encoder(torch.tensor([model.pieces.word(word)])).last_hidden_state[0, 0]
    return hidden / hidden.square().sum()
