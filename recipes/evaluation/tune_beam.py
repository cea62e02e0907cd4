"""Choose the language model's weight and the token bonus of the beam search on held-out recordings.

    python -m recipes.tune_beam DEV_TABLE --model outputs/ctc_compact/model --limit 120

Every pair of a grid decodes the same posteriors; the pair with the lowest word error rate goes into the model's
config.json. Weight 0 is in the grid, so a language model that does not help is switched off.
"""

from __future__ import annotations

import argparse
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
from asr.loading import load_recogniser, shipped
from asr.score import whisper_normaliser
from recipes.data.corpora import Recording, read_table


def posteriors(recogniser, recordings: list[Recording]) -> list[torch.Tensor]:
    """Log-probabilities [frames, vocabulary] of each recording."""
    result = []
    for recording in recordings:
        log_probabilities, lengths = recogniser.log_probabilities([recording.wave()])
        result.append(log_probabilities[0, : lengths[0]].clone())
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tune_beam", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="held-out recordings with columns id, path, text")
    parser.add_argument("--model", type=Path, default=shipped(None), help="model folder with an ngram.npz")
    parser.add_argument("--limit", type=int, help="use only so many recordings, spread evenly")
    parser.add_argument("--beam_size", type=int, default=16)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5, 0.7, 0.85, 1.0])
    parser.add_argument("--bonuses", type=float, nargs="+", default=[1.0, 2.0, 2.8, 3.4, 4.0])
    args = parser.parse_args(argv)

    recogniser, recordings = load_recogniser(args.model, "cpu"), read_table(args.table)
    recordings = recordings[:: max(1, len(recordings) // (args.limit or len(recordings)))]
    _, normalise = whisper_normaliser()
    outputs, references = posteriors(recogniser, recordings), [normalise(r.text) for r in recordings]
    rates = {}
    for weight, bonus in tqdm(list(itertools.product(args.weights, args.bonuses)), unit="pair", file=sys.stderr):
        options = replace(BeamOptions(), beam_size=args.beam_size, lm_weight=weight, token_bonus=bonus)
        lm = recogniser.lm if weight else None
        found = [prefix_beam(output, recogniser.tokenizer, options, lm)[0].text for output in outputs]
        texts = [normalise(text) for text in found]
        rates[weight, bonus] = jiwer.wer(references, texts)
        print(f"lm_weight {weight} token_bonus {bonus}: WER {rates[weight, bonus]:.4f}", flush=True)
    weight, bonus = min(rates, key=rates.get)
    print(f"best on {len(recordings)} recordings: lm_weight {weight}, token_bonus {bonus}")
    config = json.loads((args.model / "config.json").read_text())
    config["beam"] = {"lm_weight": weight, "token_bonus": bonus}
    with atomic_path(args.model / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
