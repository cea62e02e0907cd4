"""The learned commit filter of a denoiser: what is recorded, how it learns, where its threshold lies."""

from __future__ import annotations

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from asr.dllm.commit import Beliefs, Filter


def trajectories(result) -> list[tuple[Beliefs, Tensor]]:
    """For every pass of a denoised batch what was believed and whether the guess of each slot was the final token."""
    final, found = result.trace[-1].tokens, []
    for step in result.trace:
        # Clones, since tensors of inference mode cannot be trained on.
        seen = Beliefs(
            step.beliefs.confidence.clone(),
            step.beliefs.entropy.clone(),
            step.beliefs.open.clone(),
            step.beliefs.number,
        )
        found.append((seen, ((step.guesses == final) & step.beliefs.open).clone()))
    return found


def record(stores: list[str], recogniser, decoder, utterances: int, seed: int) -> list[list[tuple[Beliefs, Tensor]]]:
    """Trajectories of utterances drawn from feature stores, one list an utterance."""
    from asr.audio.augment import seeded
    from asr.parts import Listened
    from recipes.data.store import FeatureStore

    found = [FeatureStore(folder) for folder in stores]
    rng, recorded = seeded(seed), []
    for number in tqdm(range(utterances), unit="utterance", file=sys.stderr):
        store = found[number % len(found)]
        features = store.features(int(rng.integers(len(store))))
        with torch.inference_mode():
            hidden, _, lengths = recogniser.encoder(features[None], torch.tensor([len(features)]))
            frames = recogniser.log_probabilities(hidden)[0, : lengths[0]]
            result = decoder(Listened(hidden, lengths, [frames]))
        recorded.append(trajectories(result))
    return recorded


def fit(model: Filter, recorded: list[list[tuple[Beliefs, Tensor]]], steps: int, seed: int) -> None:
    """Binary cross-entropy on the open positions of drawn trajectories."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    passes = [step for trajectory in recorded for step in trajectory]
    for _ in tqdm(range(steps), unit="step", file=sys.stderr):
        chosen = torch.randint(len(passes), (16,), generator=generator).tolist()
        losses = [
            F.binary_cross_entropy_with_logits(model(beliefs)[beliefs.open], right[beliefs.open].float())
            for beliefs, right in (passes[i] for i in chosen)
        ]
        optimiser.zero_grad()
        torch.stack(losses).mean().backward()
        optimiser.step()


@torch.inference_mode()
def operating_point(scores: Tensor, right: Tensor, error: float) -> tuple[float, float]:
    """Lowest threshold at which at most a share `error` of the commits is wrong, and the share committed."""
    ordered, order = scores.sort(descending=True)
    wrong = (~right[order]).cumsum(0) / torch.arange(1, len(order) + 1)
    good = (wrong <= error).nonzero()
    if not len(good):
        return 1.0, 0.0
    last = int(good[-1])
    return float(ordered[last]), (last + 1) / len(order)


@torch.inference_mode()
def evaluate(model: Filter, held_out: list[list[tuple[Beliefs, Tensor]]], error: float) -> dict[str, float]:
    """Operating points of the filter and of plain confidence on held-out trajectories."""
    steps = [step for trajectory in held_out for step in trajectory]
    right = torch.cat([good[beliefs.open] for beliefs, good in steps])
    learned = torch.cat([torch.sigmoid(model(beliefs))[beliefs.open] for beliefs, _ in steps])
    plain = torch.cat([beliefs.confidence[beliefs.open] for beliefs, _ in steps])
    threshold, share = operating_point(learned, right, error)
    tau, plain_share = operating_point(plain, right, error)
    return {"threshold": threshold, "committed": share, "tau": tau, "committed_by_confidence": plain_share}


def train(args: argparse.Namespace) -> dict[str, float]:
    """Train a filter, put it into the denoiser's folder and return its operating points; `recipes.train_filter`."""
    from asr.ctc.model import CTCModel
    from asr.decoders import load_decoder
    from asr.dllm.choices import parse_choices

    torch.manual_seed(args.seed)
    recogniser = CTCModel.from_pretrained(args.recogniser).eval()
    choices = {**parse_choices(args.denoising), "search": "none", "commit": "one", "max_passes": 400}
    decoder = load_decoder("dllm", "cpu", args.denoiser, recogniser.tokenizer, choices)
    decoder.keep_trace = True
    recorded = record(args.stores, recogniser, decoder, args.utterances, args.seed)
    held_out, training = recorded[::10], [t for i, t in enumerate(recorded) if i % 10]
    model = Filter()
    fit(model, training, args.steps, args.seed)
    model.eval()
    result = evaluate(model, held_out, args.error)
    final = Filter(threshold=result["threshold"])
    final.load_state_dict(model.state_dict())
    final.save_pretrained(args.denoiser / "filter")
    return result
