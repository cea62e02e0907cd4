"""L3-SE, its arms and its controls on a grid of noise and reverberation, judged by a recogniser that taught none.

    python -m recipes.benchmark l3se --speech speech/dev.tsv --noise enhance.tsv --codec outputs/l3se_codec/model \\
        --systems joint=outputs/l3se_lm/model acoustic=outputs/l3se_lm_acoustic/model --out outputs/l3se_benchmark

Conditions are {-5, 0, 5} dB, dry and reverberant. The table has the noisy input, AdaptCRN, every system of `--systems`
and the first of them without its language model; and on clean input the recording itself, the codec's resynthesis
and every system. Columns:

    wer          word errors against the text; dwer against what the judge hears in the clean recording, then its
                 parts: substitutions, insertions, deletions in percent of the words
    halluc       substitutions + insertions of dwer: words that were not said
    cer          character error rate against the text
    estoi, ovrl  extended STOI; DNSMOS P.835 overall quality
    speaker      similarity to the clean recording: cosine of the embeddings of --speaker_model, resemblyzer (pip
                 install resemblyzer brings its weights) or a WavLMForXVector of transformers; without it the cosine
                 of means and deviations of log-mel bands ("timbre"), which also hears noise and is no speaker
                 recogniser

Probes: log-likelihood a token of the clean tokens under the own condition and under that of another utterance; words
that the judge hears when the input is noise alone; real-time factor and peak memory, each in a process of its own.
The default judge, PocketSphinx, shares no data and no code with the teachers; `--judge faster-whisper:base` hears far
better, where the backbone is not that one; `--judge FOLDER` is a recogniser of ours, which must not be the one that the
backbone came from.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from asr.console.program import program
from recipes.evaluation.judging import (
    RATE,
    hallucination_difference,
    judging_options,
    make_judge,
    make_measures,
    word_scores,
)
from recipes.evaluation.mixtures import Mixture, chosen_recordings, clean_mixtures, mixtures
from recipes.evaluation.side_by_side import make_parser, peak_memory, table, timed, write_json

SNRS = (-5.0, 0.0, 5.0)
ROOMS = ("dry", "reverberant")
NOISE_SECONDS = 6.0
COST_SECONDS = 10.0
SCORES = ("estoi", "ovrl", "speaker", "timbre")  # the other columns are shares of the words

System = Callable[[np.ndarray], np.ndarray]


# -- systems -----------------------------------------------------------------------------------------------


def l3se_system(model, **options) -> System:
    import torch

    return lambda wave: model.enhance(torch.from_numpy(wave)[None], **options)[0].numpy()


def codec_system(folder: str) -> System:
    """Clean speech through the codec and back, in pieces of 4 s."""
    import torch

    from enhance.l3se.backbone import FOLDER, load_backbone
    from enhance.l3se.codec import WavCodec
    from enhance.l3se.system import in_chunks

    backbone, codec = load_backbone(Path(folder) / FOLDER).frozen(), WavCodec.from_pretrained(folder)

    def resynthesise(waves: torch.Tensor) -> torch.Tensor:
        return codec.decode(codec.encode(codec.represent(backbone(waves)[0])), waves.shape[1])

    @torch.inference_mode()
    def run(wave: np.ndarray) -> np.ndarray:
        return in_chunks(torch.from_numpy(wave)[None], resynthesise, 4 * RATE)[0].numpy()

    return run


def enhancer_system(name: str) -> System:
    from enhance import Denoiser

    denoiser = Denoiser.from_pretrained(name)
    return lambda wave: denoiser(wave, RATE)


# -- measures ----------------------------------------------------------------------------------------------


def judged(
    data: list[Mixture], heard_clean: list[str] | None, systems: dict[str, System], judge, measures, progress
) -> dict:
    """Scores of every system on the mixtures of one condition.

    `heard_clean` is what the judge hears in the clean recordings; None: the first system leaves them as they are.
    """
    rows = {}
    for name, system in systems.items():
        heard, values = [], {measure: [] for measure in measures}
        for mixture in data:
            output = system(mixture.noisy)
            heard.append(judge(output))
            for measure, function in measures.items():
                values[measure].append(function(output, mixture.clean))
            progress()
        heard_clean = heard_clean or heard
        rows[name] = {
            **word_scores([m.text for m in data], heard_clean, heard),
            **{measure: float(np.nanmean(v)) for measure, v in values.items()},
            "heard": heard,
        }
    return rows


def together(cells: list[dict], texts: list[str], heard_clean: list[str]) -> dict:
    """Word scores of every system over several conditions of the same recordings."""
    heard = {name: [text for cell in cells for text in cell[name]["heard"]] for name in cells[0]}
    texts, heard_clean = texts * len(cells), heard_clean * len(cells)
    return {name: {**word_scores(texts, heard_clean, found), "heard": found} for name, found in heard.items()}


# -- probes ------------------------------------------------------------------------------------------------


def likelihoods(model, backbone_folder: str, data: list[Mixture]) -> dict[str, float]:
    """Log-likelihood a token (nat) of the clean tokens, given the own noisy speech and that of another utterance."""
    import torch

    from enhance.l3se.backbone import FOLDER, load_backbone

    backbone = load_backbone(Path(backbone_folder) / FOLDER).frozen()
    usable = [m for m in data if len(m.clean) >= model.longest]
    if len(usable) < 2:
        raise ValueError(f"{len(usable)} recordings are as long as {model.longest / RATE:g} s; the probe needs two")
    noisy, clean = (
        torch.from_numpy(np.stack([getattr(m, side)[: model.longest] for m in usable])) for side in ("noisy", "clean")
    )
    with torch.inference_mode():
        tokens = model.codec.encode(model.codec.represent(backbone(clean)[0]))
        condition = model.encoder.condition(noisy)
        own, other = (-float(model.language_model.loss(c, tokens)[1]["nll"]) for c in (condition, condition.roll(1, 0)))
    return {"own": own, "shuffled": other, "drop": own - other, "utterances": len(usable)}


def words_in_noise(noises: list[Path], systems: dict[str, System], judge, count: int, seed: int) -> dict[str, float]:
    """Words a second that the judge hears in what the systems make of noise alone."""
    from asr.audio.augment import cut, seeded
    from enhance.l3se.corruption import peak_normalised
    from enhance.mixing import draw_recording

    words = dict.fromkeys(systems, 0)
    for number in range(count):
        rng = seeded(seed, 1000 + number)
        noise = peak_normalised(cut(draw_recording(noises, rng)[1], int(NOISE_SECONDS * RATE), rng))
        for name, system in systems.items():
            words[name] += len(judge(system(noise)).split())
    return {name: total / (count * NOISE_SECONDS) for name, total in words.items()}


def cost(model: str) -> dict[str, float]:
    """Real-time factor on one thread and peak memory (MB) of enhancing 10 s, in this process."""
    import torch

    torch.set_num_threads(1)
    system = enhancer_system(model)
    wave = 0.1 * np.random.default_rng(0).standard_normal(int(COST_SECONDS * RATE)).astype(np.float32)
    system(wave[:RATE])
    _, seconds = timed(lambda: system(wave))
    return {"rtf": seconds / COST_SECONDS, "memory_mb": peak_memory()}


def costs(models: dict[str, str]) -> dict[str, dict[str, float]]:
    result = {}
    for name, model in models.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            result[name] = pool.submit(cost, model).result()
    return result


# -- the benchmark -----------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> dict:
    """Everything that the program prints, as plain values."""
    import torch
    from tqdm import tqdm

    from enhance.l3se.system import L3SE
    from enhance.mixing import list_recordings

    torch.set_num_threads(1)
    folders = dict(entry.split("=", 1) for entry in args.systems)
    models = {name: L3SE.from_pretrained(folder) for name, folder in folders.items()}
    ours = {name: l3se_system(model) for name, model in models.items()}
    first = next(iter(models))
    control = {}
    if "acoustic" in models[first].encoder.heads:
        control = {f"{first}, no LM": l3se_system(models[first], language_model=False)}
    on_noisy = {"noisy": lambda wave: wave, "adaptcrn": enhancer_system("adaptcrn"), **ours, **control}
    on_clean = {"clean": lambda wave: wave, "codec": codec_system(args.codec), **ours, **control}
    recordings = chosen_recordings(args.speech, args.count)
    noises = list_recordings([args.noise], "noise", "dev")
    judge, measures = make_judge(args.judge), make_measures(args.speaker_model)
    conditions = [(snr_db, room) for room in args.rooms for snr_db in args.snr]
    total = len(recordings) * (len(on_clean) + len(on_noisy) * len(conditions))
    result: dict = {"utterances": len(recordings), "judge": args.judge, "systems": folders, "conditions": {}}
    with tqdm(total=total, unit="file", file=sys.stderr) as bar:
        clean = list(clean_mixtures(recordings))
        rows = result["conditions"]
        rows["clean input"] = judged(clean, None, on_clean, judge, measures, bar.update)
        heard_clean = rows["clean input"]["clean"]["heard"]
        for snr_db, room in conditions:
            data = list(mixtures(recordings, noises, snr_db, room, args.seed))
            name = f"{snr_db:+g} dB {room}"
            rows[name] = judged(data, heard_clean, on_noisy, judge, measures, bar.update)
    if loud := [f"{snr_db:+g} dB {room}" for snr_db, room in conditions if snr_db <= 0]:
        rows["all up to 0 dB"] = together([rows[name] for name in loud], [r.text for r in recordings], heard_clean)
    result["hallucination_minus_first"] = {
        condition: {
            name: hallucination_difference(heard_clean, found[first]["heard"], found[name]["heard"])
            for name in found
            if name != first
        }
        for condition, found in rows.items()
    }
    long_enough = max(model.longest for model in models.values()) / RATE, 30.0
    probe = list(mixtures(chosen_recordings(args.speech, args.count, long_enough), noises, 0.0, "dry", args.seed))
    result["log_likelihood"] = {name: likelihoods(model, args.codec, probe) for name, model in models.items()}
    result["words_a_second_in_noise"] = words_in_noise(noises, on_noisy, judge, args.noise_count, args.seed)
    result["cost"] = costs({"adaptcrn": "adaptcrn", **folders})
    return result


def format_result(result: dict) -> str:
    """The tables as text."""
    lines = [f"{result['utterances']} utterances, judge {result['judge']}"]
    for condition, rows in result["conditions"].items():
        columns = [name for name in next(iter(rows.values())) if name != "heard"]
        kinds = {c: ".3f" if c in SCORES else ".1%" for c in columns}
        cells = [[name, *(f"{row[c]:{kind}}" for c, kind in kinds.items())] for name, row in rows.items()]
        lines += ["", table([condition, *map(_short, columns)], cells)]
        for name, (low, high) in result["hallucination_minus_first"][condition].items():
            lines.append(f"halluc of {name} minus the first system: 95 % interval {low:+.1%} to {high:+.1%}")
    lines.append("\nlog-likelihood a token (nat), clean tokens at 0 dB")
    for name, row in result["log_likelihood"].items():
        lines.append(f"{name:16} own {row['own']:.3f}, shuffled {row['shuffled']:.3f}, drop {row['drop']:.3f}")
    lines.append("\nwords a second heard in noise alone")
    lines += [f"{name:16} {value:.2f}" for name, value in result["words_a_second_in_noise"].items()]
    lines.append("\nreal-time factor (one thread), peak memory")
    lines += [f"{name:16} {row['rtf']:.3f}  {row['memory_mb']:.0f} MB" for name, row in result["cost"].items()]
    return "\n".join(lines)


def _short(column: str) -> str:
    return {"substitutions": "sub", "insertions": "ins", "deletions": "del"}.get(column, column)


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("l3se", __doc__)
    option = parser.add_argument
    option("--systems", nargs="+", required=True, metavar="NAME=FOLDER", help="trained systems, the main one first")
    option("--codec", required=True, metavar="FOLDER", help="the trained codec, with its backbone")
    option("--speech", required=True, metavar="TABLE", help="recordings with columns id, path, text")
    option("--noise", required=True, metavar="SOURCE", help="table (split dev) or folder of noise")
    judging_options(option)
    option("--noise_count", type=int, default=10, help="stretches of noise alone (default: 10)")
    option("--snr", nargs="+", type=float, default=list(SNRS), help="signal-to-noise ratios in dB")
    option("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    option("--seed", type=int, default=0)
    option("--out", type=Path, help="folder for result.json")
    args = parser.parse_args(argv)
    if wrong := [entry for entry in args.systems if "=" not in entry]:
        parser.error(f"--systems takes NAME=FOLDER, not {wrong[0]!r}")
    try:
        result = run(args)
    except (OSError, ValueError, ImportError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    print(format_result(result))
    if args.out:
        write_json(args.out / "result.json", result)
    return 0
