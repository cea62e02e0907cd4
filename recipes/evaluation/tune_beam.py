"""The weight of the n-gram and the token bonus of the beam search, chosen on held-out recordings."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import jiwer
import torch
from tqdm import tqdm

from asr.audio.io import atomic_path
from asr.ctc.beam import BeamOptions, prefix_beam
from asr.loading import load_recogniser
from asr.score import normalised
from recipes.data.corpora import Recording, read_table
from recipes.evaluation.side_by_side import spread


def posteriors(recogniser, recordings: list[Recording]) -> list[torch.Tensor]:
    """Log-probabilities [frames, vocabulary] of each recording."""
    result = []
    for recording in recordings:
        log_probabilities, lengths = recogniser.log_probabilities([recording.wave()])
        result.append(log_probabilities[0, : lengths[0]].clone())
    return result


def tune(
    table: str, model: Path, weights: list[float], bonuses: list[float], beam_size: int, limit: int | None
) -> None:
    """Decode with every pair of weight and bonus, and write the best into the model's config.json."""
    recogniser, recordings = load_recogniser(model, "cpu"), read_table(table)
    recordings = spread(recordings, limit)
    outputs, references = posteriors(recogniser, recordings), normalised(r.text for r in recordings)
    rates = {}
    for weight, bonus in tqdm(list(itertools.product(weights, bonuses)), unit="pair", file=sys.stderr):
        options = replace(BeamOptions(), beam_size=beam_size, lm_weight=weight, token_bonus=bonus)
        lm = recogniser.lm if weight else None
        found = [prefix_beam(output, recogniser.tokenizer, options, lm)[0].text for output in outputs]
        rates[weight, bonus] = jiwer.wer(references, normalised(found))
        print(f"lm_weight {weight} token_bonus {bonus}: WER {rates[weight, bonus]:.4f}", flush=True)
    weight, bonus = min(rates, key=rates.get)
    print(f"best on {len(recordings)} recordings: lm_weight {weight}, token_bonus {bonus}")
    config = json.loads((model / "config.json").read_text())
    config["beam"] = {"lm_weight": weight, "token_bonus": bonus}
    with atomic_path(model / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n")
