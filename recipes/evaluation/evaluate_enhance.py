"""Speech enhancement measured on folders of paired files; `python -m recipes.evaluate enhance=...` runs it.

The data folder holds `noisy` and `clean`, or `noisy_testset_wav` and `clean_testset_wav` as VoiceBank-DEMAND
does. What is measured is a folder of files with the same names, or anything that `enhance.load_enhancer` takes.
Files are compared at 16 kHz. Where a `mixture.tsv` or `log_testset.txt` gives the signal-to-noise ratios,
there is a line for each of them.

Metrics: SI-SNR (dB), wide-band PESQ, STOI, extended STOI, DNSMOS P.835 (signal, background, overall) and the word
error rate of the project's own recogniser: against the texts of a table, else against what it hears in the clean
file (dWER).
"""

from __future__ import annotations

import csv
import multiprocessing
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

LAYOUTS = (("noisy", "clean"), ("noisy_testset_wav", "clean_testset_wav"))
METRICS = ("si_snr", "pesq", "stoi", "estoi", "dnsmos")
SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}


@dataclass(frozen=True)
class Clip:
    """One pair; `condition` is its signal-to-noise ratio in dB, `speech` the name of the clean recording."""

    id: str
    noisy: Path
    clean: Path
    condition: str | None = None
    speech: str | None = None


def paired_files(noisy: Path, clean: Path) -> list[tuple[Path, Path]]:
    """Files of the same name without extension, sorted.

    Raises:
        FileNotFoundError: a folder is missing, or no name occurs in both.
    """
    for folder in (noisy, clean):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of recordings")
    partners = {path.stem: path for path in clean.iterdir() if path.suffix.lower() in SUFFIXES}
    files = sorted(path for path in noisy.iterdir() if path.suffix.lower() in SUFFIXES)
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
        with open(table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return {r["id"]: (r["snr_db"], Path(r["speech"]).stem) for r in rows}
    if (log := folder / "log_testset.txt").exists():  # VoiceBank-DEMAND: name, noise, ratio
        fields = [line.split() for line in log.read_text().splitlines() if line.strip()]
        return {name: (ratio, name) for name, _, ratio in fields}
    return {}


def measure_clips(
    clips: list[Clip],
    enhanced: str | Path | None = None,
    metrics: Iterable[str] = METRICS,
    texts: str | Path | None = None,
    wer: bool = True,
    workers: int = 1,
) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of the noisy, enhanced and clean files of each clip: {clip id: {system: {metric: value}}}.

    Args:
        enhanced: a folder of enhanced files, or a name for `enhance.load_enhancer`; None leaves it out.
        metrics: names out of `METRICS`.
        texts: table with columns id and text, for WER; ids are those of the clips or of their speech.
        wer: transcribe with the project's recogniser; left out with a note when it is not there.
        workers: processes.
    """
    systems: dict[str, Callable] = {"noisy": _load_noisy, "clean": _load_clean}
    if enhanced is not None:
        systems["enhanced"] = _enhanced_loader(enhanced)
    scores = {name: _scores(clips, loader, tuple(metrics), workers) for name, loader in systems.items()}
    if wer and (recogniser := _recogniser()):
        _add_word_errors(scores, systems, clips, recogniser, _read_texts(texts))
    return {clip.id: {name: rows[i] for name, rows in scores.items()} for i, clip in enumerate(clips)}


def summarise(clips: list[Clip], measured: dict[str, dict[str, dict[str, float]]]) -> dict:
    """Means of what `measure_clips` found.

    Returns:
        `{"clips", "systems": {system: {condition: {metric: mean}}}}` with the systems noisy, enhanced and clean,
        and "all" or a ratio in dB as condition. Clips where a metric is not defined (PESQ of silence) are left out
        of its mean.
    """
    conditions = sorted({c.condition for c in clips if c.condition is not None}, key=float)
    systems = {}
    for name in measured[clips[0].id]:
        rows = [measured[clip.id][name] for clip in clips]
        systems[name] = {condition: _mean(rows, clips, condition) for condition in ("all", *conditions)}
    return {"clips": len(clips), "systems": systems}


def _load_noisy(clip: Clip):
    from asr.audio import load

    return load(clip.noisy)


def _load_clean(clip: Clip):
    from asr.audio import load

    return load(clip.clean)


@dataclass
class _FromFolder:
    files: dict[str, Path]

    def __call__(self, clip: Clip):
        from asr.audio import load

        if clip.id not in self.files:
            raise FileNotFoundError(f"no enhanced file for {clip.id}")
        return load(self.files[clip.id])


@dataclass
class _FromModel:
    name: str

    def __call__(self, clip: Clip):
        denoiser = self.__dict__.get("_denoiser")
        if denoiser is None:  # made in each worker process
            from enhance import Denoiser

            denoiser = self._denoiser = Denoiser.from_pretrained(self.name)
        return denoiser(_load_noisy(clip), 16_000)


def _enhanced_loader(enhanced: str | Path) -> Callable:
    path = Path(enhanced)
    if path.is_dir() and not (path / "config.json").exists():
        return _FromFolder({p.stem: p for p in path.iterdir() if p.suffix.lower() in SUFFIXES})
    return _FromModel(str(enhanced))


def _scores(clips: list[Clip], loader: Callable, metrics: tuple[str, ...], workers: int) -> list[dict[str, float]]:
    from tqdm import tqdm

    jobs = [(clip, loader, metrics) for clip in clips]
    if workers == 1:
        return [_measure(job) for job in tqdm(jobs, unit="clip", file=sys.stderr)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return list(tqdm(pool.imap(_measure, jobs), total=len(jobs), unit="clip", file=sys.stderr))


def _measure(job: tuple[Clip, Callable, tuple[str, ...]]) -> dict[str, float]:
    """All metrics of one clip of one system; clean files are not compared with themselves."""
    from importlib.util import find_spec

    from enhance.metrics import dnsmos, metric_functions

    clip, loader, metrics = job
    clean, estimate = _load_clean(clip), loader(clip)
    length = min(len(clean), len(estimate))
    scores = {}
    if loader is not _load_clean:
        functions = metric_functions(m for m in metrics if m != "dnsmos")
        scores = {name: f(estimate[:length], clean[:length]) for name, f in functions.items()}
    if "dnsmos" in metrics and find_spec("speechmos"):
        scores |= dnsmos(estimate)
    return scores


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
    with open(table, newline="", encoding="utf-8") as file:
        return {r["id"]: r["text"] for r in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def _add_word_errors(scores: dict, systems: dict, clips: list[Clip], recogniser, texts: dict[str, str]) -> None:
    """Word errors and reference words of each clip; `_mean` pools them to a rate."""
    import jiwer

    from asr.score import whisper_normaliser

    _, normalise = whisper_normaliser()
    for number, clip in enumerate(clips):
        heard = {name: recogniser(loader(clip), 16_000).text for name, loader in systems.items()}
        text = texts.get(clip.id) or texts.get(clip.speech or "")
        reference, name = (text, "wer") if text else (heard["clean"], "dwer")
        reference = normalise(reference)
        if not reference:
            continue
        for system, hypothesis in heard.items():
            counts = jiwer.process_words(reference, normalise(hypothesis))
            errors = counts.substitutions + counts.insertions + counts.deletions
            words = counts.substitutions + counts.deletions + counts.hits
            scores[system][number] |= {f"{name}_errors": errors, f"{name}_words": words}


def _mean(rows: list[dict[str, float]], clips: list[Clip], condition: str) -> dict[str, float]:
    import numpy as np

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
    order = [name for name in ("noisy", "enhanced", "clean") if name in systems]
    metrics = list(dict.fromkeys(m for name in order for row in systems[name].values() for m in row))
    lines = [["SNR dB", "system", *metrics]]
    for condition in systems[order[0]]:
        for name in order:
            row = systems[name][condition]
            lines.append([condition, name, *(f"{row[m]:.3f}" if m in row else "-" for m in metrics)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
