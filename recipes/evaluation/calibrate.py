"""How far word confidences are from how often words are right, and the fit that mends them."""

from __future__ import annotations

import json
from pathlib import Path

import jiwer
import torch

from asr.audio.io import atomic_path
from asr.ctc.timing import calibration_error, fit_calibration
from asr.loading import load_recogniser
from asr.recogniser import DecodeOptions
from recipes.data.corpora import Recording, read_table

Scores = dict[str, list[tuple[float, bool]]]  # by speaker: raw confidence of a word and whether it is right


def right_words(reference: str, hypothesis: str) -> list[bool]:
    """For each word of the hypothesis whether the alignment to the reference matches it."""
    right = [False] * len(hypothesis.split())
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        if chunk.type == "equal":
            right[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
    return right


def plain(word: str) -> str:
    """A written word as plain reference texts spell it: "Mr." is mister; it stays one word."""
    word = word.lower().strip(".,?!-")
    return {"mr": "mister", "mrs": "missus", "dr": "doctor"}.get(word, word) or "-"


def raw_scores(recogniser, recordings: list[Recording], decoder: str) -> Scores:
    """Uncalibrated word confidences of all recordings."""
    scores: Scores = {}
    options = DecodeOptions(decoder=decoder, word_timestamps=True)
    for recording in recordings:
        utterance = recogniser.transcribe_batch([recording.wave()], options)[0]
        right = right_words(recording.text, " ".join(plain(word) for word in utterance.text.split()))
        words = zip(utterance.words, right, strict=True)
        scores.setdefault(recording.speaker, []).extend((word.confidence, ok) for word, ok in words)
    return scores


def tensors(scores: Scores, speakers: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [pair for speaker in speakers for pair in scores[speaker]]
    return torch.tensor([raw for raw, _ in pairs]), torch.tensor([ok for _, ok in pairs])


def calibrate(scores: Scores) -> tuple[tuple[float, float], dict[str, float]]:
    """Slope and offset from all speakers, and calibration errors on speakers that did not fit them."""
    speakers = sorted(scores)
    slope, offset = fit_calibration(*tensors(scores, speakers[::2]))
    raw, right = tensors(scores, speakers[1::2])
    mended = torch.sigmoid(slope * torch.logit(raw.clamp(1e-6, 1 - 1e-6)) + offset)
    errors = {"raw": calibration_error(raw, right), "calibrated": calibration_error(mended, right), "words": len(raw)}
    return fit_calibration(*tensors(scores, speakers)), errors


def calibrate_model(table: str, model: Path, decoders: list[str]) -> None:
    """Fit each decoder's confidences on a table and write them into the model's config.json.

    Raises:
        ValueError: the model has no such decoder.
    """
    recogniser, recordings = load_recogniser(model, "cpu"), read_table(table)
    recogniser.calibration = {}
    config = json.loads((model / "config.json").read_text())
    config["calibration"] = config.get("calibration") or {}
    for decoder in decoders:
        config["calibration"][decoder], errors = calibrate(raw_scores(recogniser, recordings, decoder))
        print(
            f"{decoder}: expected calibration error on unseen speakers {errors['calibrated']:.3f} "
            f"(before {errors['raw']:.3f}, {errors['words']} words)"
        )
    with atomic_path(model / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n")
