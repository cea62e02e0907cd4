"""Evaluate a recogniser or an enhancer on a data set.

    python -m recipes.evaluate asr=beam data=dev.tsv output=outputs/dev_beam.json
    python -m recipes.evaluate asr=greedy data=dev.tsv model=outputs/ctc_compact/model
    python -m recipes.evaluate enhance=adaptcrn data=outputs/enhance_dev
    python -m recipes.evaluate enhance=FOLDER_OF_ENHANCED_FILES data=VoiceBank-DEMAND wer=false
    python -m recipes.evaluate enhance=[adaptcrn,deepfilternet3,rnnoise,gtcrn.onnx] data=DEV plot=all.png
    python -m recipes.evaluate asr=beam data=big.tsv output=big.json shard_count=8 shard_index=3   # one of 8 machines

Recognition reads a table (columns id, path, text) or a lhotse manifest and reports raw and normalised word
error rates with 95 % intervals and per speaker. Enhancement reads a folder of noisy and clean pairs; its
metrics are described in recipes/evaluation/evaluate_enhance.py. Results go to standard output as a table and, with
`output`, into a JSON file.

A shard writes what it found beside `output`, big.3of8.json; the one that sees that all are there writes the result.
A shard that is there already is not computed again.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.console.program import program
from recipes.evaluation.side_by_side import write_json


@dataclass
class Evaluation:
    """What can be given as key=value.

    Args:
        data: table of recordings (asr) or folder of pairs (enhance).
        asr: decoder: greedy, beam, dllm or ar.
        enhance: enhancer by name, folder or ONNX file, or a folder of enhanced files; or a list of these.
        model: folder or Hub id of the recogniser; null is the one that ships.
        metrics: of enhancement, out of si_snr, pesq, stoi, estoi and dnsmos; null is all, [] none.
        texts: table with the texts of an enhancement set, for its word error rates.
        wer: transcribe when evaluating enhancement.
        limit: use only so many recordings, spread evenly.
        plot: picture file of the enhancement metrics.
        workers: processes that compute enhancement metrics.
        output: JSON file for the result.
        shard_index: which part of the recordings this process takes, from 0.
        shard_count: into how many parts the recordings are split; needs `output`.
    """

    data: str = "???"
    asr: str | None = None
    enhance: Any = None
    model: str | None = None
    metrics: list[str] | None = None
    texts: str | None = None
    wer: bool = True
    limit: int | None = None
    plot: str | None = None
    workers: int = 1
    output: str | None = None
    shard_index: int = 0
    shard_count: int = 1

    def check(self) -> None:
        """Raises ValueError: fields that do not go together."""
        if (self.asr is None) == (self.enhance is None):
            raise ValueError("say what to evaluate: asr=greedy|beam|dllm|ar or enhance=NAME, one of the two")
        if not 0 <= self.shard_index < self.shard_count:
            raise ValueError(f"shard_index={self.shard_index}: it goes from 0 to shard_count - 1")
        if self.shard_count > 1 and not self.output:
            raise ValueError("shard_count: shards meet beside the result file, so give output=FILE.json")


class Recognition:
    """Texts of a table's recordings, segmentation and all, and their word error rates."""

    def __init__(self, config: Evaluation):
        from recipes.data.corpora import read_table

        self.config, self.items = config, read_table(config.data)
        if config.limit:
            self.items = self.items[:: -(-len(self.items) // config.limit)]

    def measure(self, recordings: list) -> dict[str, str]:
        """{id: text}; a recording that cannot be read has an empty one and a line on standard error."""
        from tqdm import tqdm

        from asr import Transcriber
        from asr.recogniser import DecodeOptions

        options = DecodeOptions(decoder=self.config.asr, word_timestamps=False)
        transcriber = Transcriber.from_pretrained(self.config.model, options=options)
        hypotheses = {r.id: "" for r in recordings}
        names: dict[str, list[str]] = {}  # a table may list a file more than once
        for recording in recordings:
            names.setdefault(str(recording.path), []).append(recording.id)
        with tqdm(total=len(names), unit="file", file=sys.stderr) as bar:

            def failed(path, error):
                bar.write(str(error), file=sys.stderr)
                bar.update()

            for path, transcript in transcriber.transcribe_many(names, failed):
                hypotheses.update(dict.fromkeys(names[path], transcript.text))
                bar.update()
        return hypotheses

    def result(self, hypotheses: dict[str, str]) -> dict:
        """As `asr.score.report` gives it, with the hypotheses."""
        from asr.score import report

        result = report({r.id: r.text for r in self.items}, hypotheses, by_speaker=True)
        return {**result, "hypotheses": hypotheses}

    def print(self, result: dict) -> None:
        print(f"{result['utterances']} utterances")
        for score in result["scores"]:
            low, high = score["interval"]
            print(
                f"normaliser {score['normaliser']}: WER {score['wer']:.2%} ({low:.2%}-{high:.2%})  "
                f"CER {score['cer']:.2%}  substitutions {score['substitutions']} insertions {score['insertions']} "
                f"deletions {score['deletions']}"
            )
        for speaker, row in result["speakers"].items():
            print(f"speaker {speaker}: {row['utterances']} utterances, WER {row['wer']:.2%}")


class Enhancement:
    """Metrics of a folder of pairs."""

    def __init__(self, config: Evaluation):
        from recipes.evaluation.evaluate_enhance import find_clips, spread

        self.config, self.items = config, spread(find_clips(Path(config.data)), config.limit)

    def measure(self, clips: list) -> dict[str, dict]:
        from recipes.evaluation.evaluate_enhance import METRICS, measure_clips

        config = self.config
        metrics = METRICS if config.metrics is None else config.metrics
        return measure_clips(clips, config.enhance, metrics, config.texts, config.wer, config.workers)

    def result(self, measured: dict[str, dict]) -> dict:
        from recipes.evaluation.evaluate_enhance import parameters_of, summarise

        return {
            "folder": self.config.data,
            "enhanced": self.config.enhance,
            "parameters": parameters_of(self.config.enhance),
            **summarise(self.items, measured),
        }

    def print(self, result: dict) -> None:
        from recipes.evaluation.evaluate_enhance import format_table, plot

        print(format_table(result))
        for name, count in result["parameters"].items():
            print(f"{name}: {f'{count:,} parameters' if count else 'parameters not known'}")
        if self.config.plot:
            plot(result, Path(self.config.plot))


def evaluate(config: Evaluation) -> dict | None:
    """Run what the configuration asks for, print it and write it; None while other shards are missing.

    Raises:
        ValueError: the fields do not go together.
    """
    config.check()
    work = Recognition(config) if config.asr else Enhancement(config)
    if config.shard_count == 1:
        found = work.measure(work.items)
    elif (found := measure_shard(config, work)) is None:
        return None
    result = work.result(found)
    work.print(result)
    if config.output:
        write_json(Path(config.output), result)
    return result


def measure_shard(config: Evaluation, work: Recognition | Enhancement) -> dict | None:
    """Measure one shard unless that is done; what all shards found, or None where some are missing."""
    output = Path(config.output)
    shards = [output.with_name(f"{output.stem}.{i}of{config.shard_count}.json") for i in range(config.shard_count)]
    settings = dataclasses.asdict(config) | {"shard_index": None, "workers": None}
    mine = shards[config.shard_index]
    if _read_shard(mine, settings) is None:
        found = work.measure(work.items[config.shard_index :: config.shard_count])
        write_json(mine, {"settings": settings, "found": found})
    parts = {path.name: _read_shard(path, settings) for path in shards}
    if missing := [name for name, part in parts.items() if part is None]:
        print(f"{mine}: done; still missing: {', '.join(missing)}", file=sys.stderr)
        return None
    return {id: value for part in parts.values() for id, value in part.items()}


def _read_shard(path: Path, settings: dict) -> dict | None:
    """What a shard found; None if it is not there or was made with other settings."""
    if not path.exists():
        return None
    shard = json.loads(path.read_text(encoding="utf-8"))
    return shard["found"] if shard["settings"] == settings else None


@program
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        evaluate(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Evaluation), OmegaConf.from_cli(argv))))
    except (ValueError, OSError, ImportError, OmegaConfBaseException) as error:
        print(f"recipes.evaluate: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
