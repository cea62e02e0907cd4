"""Speech enhancement measured on folders of paired files; `python -m recipes.evaluate enhance=...` runs it.

The data folder holds `noisy` and `clean`, or `noisy_testset_wav` and `clean_testset_wav` as VoiceBank-DEMAND
does. What is measured beside the noisy files is one system or several: our models, folders of enhanced files, other
people's enhancers (recipes/evaluation/enhance_systems.py). Files are compared at 16 kHz. Where a `mixture.tsv` or
`log_testset.txt` gives the signal-to-noise ratios, there is a line for each of them.

Metrics: SI-SNR (dB), wide-band PESQ, STOI, extended STOI, DNSMOS (signal, background, overall, P.808) and the word
error rate of the project's own recogniser: against the texts of a table, else against what it hears in the clean
file (dWER). `rtf` is processor time over duration, for systems that compute.
"""

from __future__ import annotations

import csv
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from asr.audio import load
from asr.audio.features import SAMPLING_RATE
from asr.audio.formats import is_recording

LAYOUTS = (("noisy", "clean"), ("noisy_testset_wav", "clean_testset_wav"))
BOOTSTRAPS = 2000
METRICS = ("si_snr", "pesq", "stoi", "estoi", "dnsmos")


@dataclass(frozen=True)
class Clip:
    """One pair; `condition` is its signal-to-noise ratio in dB, `speech` the name of the clean recording."""

    id: str
    noisy: Path
    clean: Path
    condition: str | None = None
    speech: str | None = None


# A clip's samples at 16 kHz and the seconds that were computed for them; None where files are read.
System = Callable[[Clip], tuple[np.ndarray, float | None]]


def paired_files(noisy: Path, clean: Path) -> list[tuple[Path, Path]]:
    """Files of the same name without extension, sorted.

    Raises:
        FileNotFoundError: a folder is missing, or no name occurs in both.
    """
    for folder in (noisy, clean):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of recordings")
    partners = {path.stem: path for path in filter(is_recording, clean.iterdir())}
    files = sorted(filter(is_recording, noisy.iterdir()))
    pairs = [(path, partners[path.stem]) for path in files if path.stem in partners]
    if not pairs:
        raise FileNotFoundError(f"no recording in {noisy} has one of the same name in {clean}")
    return pairs


def find_clips(folder: Path) -> list[Clip]:
    """The clips of a data folder in one of the known layouts.

    Raises:
        FileNotFoundError: the folder has another layout.
    """
    for noisy, clean in LAYOUTS:
        if (folder / noisy).is_dir():
            conditions = _conditions(folder)
            return [
                Clip(n.stem, n, c, *conditions.get(n.stem, (None, None)))
                for n, c in paired_files(folder / noisy, folder / clean)
            ]
    names = " or ".join(f"{n}/ and {c}/" for n, c in LAYOUTS)
    raise FileNotFoundError(f"{folder} holds neither {names}")


def spread(clips: list[Clip], limit: int | None) -> list[Clip]:
    """At most `limit` clips, evenly spread over the list; all when None."""
    count = min(limit or len(clips), len(clips))
    return [clips[i * len(clips) // count] for i in range(count)]


def _conditions(folder: Path) -> dict[str, tuple[str, str]]:
    """Signal-to-noise ratio and speech name of each clip, where a table gives them."""
    if (table := folder / "mixture.tsv").exists():
        with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return {r["id"]: (r["snr_db"], Path(r["speech"]).stem) for r in rows}
    if (log := folder / "log_testset.txt").exists():  # VoiceBank-DEMAND: name, noise, ratio
        fields = [line.split() for line in log.read_text().splitlines() if line.strip()]
        return {name: (ratio, name) for name, _, ratio in fields}
    return {}


def measure_clips(
    clips: list[Clip],
    enhanced: str | Path | Sequence[str | Path] = (),
    metrics: Iterable[str] = METRICS,
    texts: str | Path | None = None,
    wer: bool = True,
    workers: int = 1,
) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of the noisy, enhanced and clean files of each clip: {clip id: {system: {metric: value}}}.

    Args:
        enhanced: one or several names for `enhance_systems.system_of`; the systems are called by their labels.
        metrics: names out of `METRICS`.
        texts: table with columns id and text, for WER; ids are those of the clips or of their speech.
        wer: transcribe with the project's recogniser; left out with a note when it is not there.
        workers: processes.
    """
    systems = {"noisy": _noisy, **enhanced_systems(enhanced), "clean": _clean}
    scores = {name: _scores(name, clips, system, tuple(metrics), workers) for name, system in systems.items()}
    if wer and (recogniser := _recogniser()):
        _add_word_errors(scores, systems, clips, recogniser, _read_texts(texts))
    return {clip.id: {name: rows[i] for name, rows in scores.items()} for i, clip in enumerate(clips)}


def summarise(clips: list[Clip], measured: dict[str, dict[str, dict[str, float]]]) -> dict:
    """Means of what `measure_clips` found.

    Returns:
        `{"clips", "systems": {system: {condition: {metric: mean}}}}` with the systems noisy, the enhanced ones and
        clean, and "all" or a ratio in dB as condition. Clips where a metric is not defined (PESQ of silence) are
        left out of its mean. Where texts were recognised there is `word_errors` too, see `word_error_changes`.
    """
    conditions = sorted({c.condition for c in clips if c.condition is not None}, key=float)
    systems = {}
    for name in measured[clips[0].id]:
        rows = [measured[clip.id][name] for clip in clips]
        systems[name] = {condition: _mean(rows, clips, condition) for condition in ("all", *conditions)}
    result = {"clips": len(clips), "systems": systems}
    changes = {c: word_error_changes(clips, measured, c) for c in ("all", *conditions)}
    return result | ({"word_errors": changes} if changes["all"] else {})


def word_error_changes(clips: list[Clip], measured: dict, condition: str) -> dict[str, dict[str, float]]:
    """Word error rate of each enhanced system less that of the noisy files, with its 95 % interval.

    The interval is that of a paired bootstrap over clips: {system: {"change", "low", "high"}}.
    """
    chosen = [clip.id for clip in clips if condition in ("all", clip.condition)]
    for name in ("wer", "dwer"):
        kept = [id for id in chosen if f"{name}_words" in measured[id]["noisy"]]
        if kept:
            break
    else:
        return {}
    draws = np.random.default_rng(0).integers(0, len(kept), (BOOTSTRAPS, len(kept)))
    words = np.array([measured[id]["noisy"][f"{name}_words"] for id in kept], float)
    changes = {}
    for system in measured[kept[0]]:
        if system in ("noisy", "clean"):
            continue
        errors = [measured[id][system][f"{name}_errors"] - measured[id]["noisy"][f"{name}_errors"] for id in kept]
        errors = np.array(errors, float)
        low, high = np.percentile(errors[draws].sum(1) / words[draws].sum(1), (2.5, 97.5))
        changes[system] = {"change": errors.sum() / words.sum(), "low": float(low), "high": float(high)}
    return changes


def enhanced_systems(names: str | Path | Sequence[str | Path]) -> dict[str, System]:
    """Systems by label.

    Raises:
        ValueError: two names with one label.
        FileNotFoundError, ImportError: a system that is not there.
    """
    from recipes.evaluation.enhance_systems import label, system_of

    names = [names] if isinstance(names, str | Path) else list(names)
    labels = [label(name) for name in names]
    if len(set(labels)) < len(labels):
        raise ValueError(f"systems are told apart by the last part of their names, and two are alike: {labels}")
    return {label(name): system_of(name) for name in names}


def parameters_of(names: str | Path | Sequence[str | Path]) -> dict[str, int | None]:
    """Numbers that each system has learnt, by label; None where that is not known."""
    return {name: system.parameters for name, system in enhanced_systems(names).items()}


def _noisy(clip: Clip) -> tuple[np.ndarray, None]:
    return load(clip.noisy), None


def _clean(clip: Clip) -> tuple[np.ndarray, None]:
    return load(clip.clean), None


def _scores(
    name: str, clips: list[Clip], system: System, metrics: tuple[str, ...], workers: int
) -> list[dict[str, float]]:
    if not metrics:
        return [{} for _ in clips]
    jobs = [(clip, system, metrics) for clip in clips]
    shown = partial(tqdm, desc=name, total=len(jobs), unit="clip", file=sys.stderr)
    if workers == 1:
        return list(shown(map(_measure, jobs)))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return list(shown(pool.imap(_measure, jobs)))


def _measure(job: tuple[Clip, System, tuple[str, ...]]) -> dict[str, float]:
    """All metrics of one clip of one system; clean files are not compared with themselves."""
    from enhance.metrics import dnsmos, metric_functions

    clip, system, metrics = job
    clean, (estimate, seconds) = load(clip.clean), system(clip)
    length = min(len(clean), len(estimate))
    scores = {}
    if system is not _clean:
        functions = metric_functions(m for m in metrics if m != "dnsmos")
        scores = {name: f(estimate[:length], clean[:length]) for name, f in functions.items()}
    if "dnsmos" in metrics and find_spec("speechmos"):
        scores |= dnsmos(estimate)
    return scores if seconds is None else scores | {"rtf": seconds * SAMPLING_RATE / len(clean)}


def _recogniser():
    try:
        from asr import Transcriber

        return Transcriber.from_pretrained(None)
    except (ImportError, FileNotFoundError) as error:
        print(f"no word error rates: the recogniser is not available ({error})", file=sys.stderr)
        return None


def _read_texts(table: str | Path | None) -> dict[str, str]:
    if table is None:
        return {}
    with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        return {r["id"]: r["text"] for r in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def _add_word_errors(scores: dict, systems: dict, clips: list[Clip], recogniser, texts: dict[str, str]) -> None:
    """Word errors and reference words of each clip; `_mean` pools them to a rate."""
    import jiwer

    from asr.score import normalised

    for number, clip in enumerate(tqdm(clips, desc="recognised", unit="clip", file=sys.stderr)):
        heard = {name: recogniser(system(clip)[0], SAMPLING_RATE).text for name, system in systems.items()}
        text = texts.get(clip.id) or texts.get(clip.speech or "")
        reference, name = (text, "wer") if text else (heard["clean"], "dwer")
        (reference,) = normalised([reference])
        if not reference:
            continue
        for system, hypothesis in zip(heard, normalised(heard.values()), strict=True):
            counts = jiwer.process_words(reference, hypothesis)
            errors = counts.substitutions + counts.insertions + counts.deletions
            words = counts.substitutions + counts.deletions + counts.hits
            scores[system][number] |= {f"{name}_errors": errors, f"{name}_words": words}


def _mean(rows: list[dict[str, float]], clips: list[Clip], condition: str) -> dict[str, float]:
    chosen = [row for row, clip in zip(rows, clips, strict=True) if condition in ("all", clip.condition)]
    names = list(dict.fromkeys(name for row in chosen for name in row))
    values = {name: np.array([row.get(name, np.nan) for row in chosen], float) for name in names}
    means = {n: float(np.nanmean(v)) for n, v in values.items() if np.isfinite(v).any() and "wer_" not in n}
    for name in ("wer", "dwer"):
        if f"{name}_words" in values:
            means[name] = float(np.nansum(values[f"{name}_errors"]) / np.nansum(values[f"{name}_words"]))
    return means


def format_table(result: dict) -> str:
    """The result as a table, one line a condition and system."""
    systems = result["systems"]
    metrics = list(dict.fromkeys(m for rows in systems.values() for row in rows.values() for m in row))
    lines = [["SNR dB", "system", *metrics]]
    for condition in systems["noisy"]:
        for name, rows in systems.items():
            row = rows[condition]
            lines.append([condition, name, *(f"{row[m]:.3f}" if m in row else "-" for m in metrics)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    for condition, changes in result.get("word_errors", {}).items():
        for name, found in changes.items():
            interval = f"{found['low']:+.3f} to {found['high']:+.3f}"
            rows.append(f"{condition}, {name}: word error rate {found['change']:+.3f} ({interval}) against noisy")
    return "\n".join(rows)


def plot(result: dict, path: Path) -> None:
    """Write a picture: one panel a metric, one line a system over the signal-to-noise ratios, or bars without them.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from asr.audio.io import atomic_path

    systems = result["systems"]
    metrics = list(dict.fromkeys(m for rows in systems.values() for m in rows["all"]))
    ratios = [condition for condition in systems["noisy"] if condition != "all"]
    figure = Figure(figsize=(4.5 * min(3, len(metrics)), 3.2 * -(-len(metrics) // 3)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, metric in enumerate(metrics):
        axis = figure.add_subplot(-(-len(metrics) // 3), min(3, len(metrics)), number + 1)
        values = {name: rows for name, rows in systems.items() if metric in rows["all"]}
        for name, rows in values.items():
            if ratios:
                axis.plot([float(r) for r in ratios], [rows[r].get(metric) for r in ratios], marker="o", label=name)
            else:
                axis.bar(name, rows["all"][metric], label=name)
        axis.set(title=metric, xlabel="signal-to-noise ratio, dB" if ratios else None)
    figure.axes[0].legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=110)
