"""Enhanced speech judged by a recogniser that has not learned from it, and by measures of sound and voice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

RATE = 16_000
RESEMBLYZER = "resemblyzer"

Measure = Callable[[np.ndarray, np.ndarray], float]  # output and clean recording -> score


def judging_options(option: Callable) -> None:
    """Options of a program that judges; `option` is `ArgumentParser.add_argument`."""
    option("--judge", default="pocketsphinx", help="pocketsphinx, faster-whisper:SIZE_OR_FOLDER, transformers:NAME or "
           "the folder of a recogniser of ours (default: pocketsphinx)")  # fmt: skip
    option("--speaker_model", metavar="NAME", help=f"{RESEMBLYZER}, or an x-vector model of transformers")
    option("--count", type=int, default=40, help="utterances, spread over the table (default: 40)")


def make_judge(name: str) -> Callable[[np.ndarray], str]:
    """What hears the recordings.

    PocketSphinx adapts to what it heard before, so every recording gets a new one: what it hears must not depend
    on the order of the systems.

    Args:
        name: a system of `recipes.evaluation.recognisers` that is not ours ("faster-whisper:base", "pocketsphinx"), or
            the folder of a recogniser of ours, which decodes greedily.

    Raises:
        ValueError: its package is not installed.
    """
    from recipes.evaluation.recognisers import PEERS, Choice, our_system, pocketsphinx

    choice = Choice(name)
    if choice.kind == "pocketsphinx":
        return lambda wave: pocketsphinx()([wave])[0]
    system = choice.load() if choice.kind in PEERS else our_system("greedy", name)
    return lambda wave: system([wave])[0]


def make_measures(speaker_model: str | None) -> dict[str, Measure]:
    """Functions of an output and the clean recording, as far as their packages are installed."""
    from importlib.util import find_spec

    from enhance.metrics import dnsmos, metric_functions

    measures: dict[str, Measure] = dict(metric_functions(("estoi",)))
    if find_spec("speechmos"):
        measures["ovrl"] = lambda output, clean: dnsmos(output)["dnsmos_ovrl"]
    voice = {None: lambda name: timbre, RESEMBLYZER: resemblyzer}.get(speaker_model, x_vectors)
    measures["speaker" if speaker_model else "timbre"] = similarity(voice(speaker_model))
    return measures


def similarity(embed: Callable[[np.ndarray], np.ndarray]) -> Measure:
    def measure(output: np.ndarray, clean: np.ndarray) -> float:
        a, b = embed(output), embed(clean)
        return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))

    return measure


def timbre(wave: np.ndarray) -> np.ndarray:
    """Mean over the bands removed from the mean log-mel spectrum of the louder half of the frames, and deviations."""
    import torch

    from asr.audio.features import log_mel

    features = log_mel(torch.from_numpy(np.ascontiguousarray(wave)))
    loud = features[features.mean(1) >= features.mean(1).median()]
    mean = loud.mean(0)
    return torch.cat([mean - mean.mean(), loud.std(0, unbiased=False)]).numpy()


def x_vectors(name: str) -> Callable[[np.ndarray], np.ndarray]:
    import torch
    from transformers import AutoFeatureExtractor, WavLMForXVector

    extractor, model = AutoFeatureExtractor.from_pretrained(name), WavLMForXVector.from_pretrained(name).eval()

    @torch.inference_mode()
    def embed(wave: np.ndarray) -> np.ndarray:
        return model(**extractor(wave, sampling_rate=RATE, return_tensors="pt")).embeddings[0].numpy()

    return embed


def resemblyzer(name: str = RESEMBLYZER) -> Callable[[np.ndarray], np.ndarray]:
    """The encoder of Wan et al. 2018 (arXiv 1710.10467) that the package resemblyzer brings.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from resemblyzer import VoiceEncoder
    except ImportError:
        raise ValueError("resemblyzer is not installed: pip install resemblyzer") from None
    encoder = VoiceEncoder("cpu", verbose=False)
    return lambda wave: encoder.embed_utterance(np.asarray(wave, np.float32))


def word_scores(texts: list[str], heard_clean: list[str], heard: list[str]) -> dict:
    """Errors against the text and against what was heard in the clean recording, by Whisper's normaliser."""
    from asr.score import error_counts, normalised

    texts, heard_clean, heard = map(normalised, (texts, heard_clean, heard))
    against_text, against_clean = error_counts(texts, heard), error_counts(heard_clean, heard)
    words = max(1, int(against_clean.reference.sum()))
    parts = ("substitutions", "insertions", "deletions")
    scores = {part: int(getattr(against_clean, part).sum()) / words for part in parts}
    return {
        "wer": against_text.rate,
        "dwer": against_clean.rate,
        **scores,
        "halluc": scores["substitutions"] + scores["insertions"],
        "cer": error_counts(texts, heard, unit="character").rate,
    }


def hallucination_difference(heard_clean: list[str], first: list[str], second: list[str]) -> tuple[float, float]:
    """95 % interval of the second system's substitutions + insertions a word minus the first's.

    What was heard in several conditions follows one another, each in the order of `heard_clean`.
    """
    from asr.score import error_counts, normalised, paired_bootstrap

    references = normalised(heard_clean) * (len(first) // len(heard_clean))
    counts = [error_counts(references, normalised(heard)) for heard in (first, second)]
    counts = [dataclasses.replace(c, deletions=0 * c.deletions) for c in counts]
    return paired_bootstrap(*counts)[:2]
