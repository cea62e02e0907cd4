"""Evaluate a recogniser or an enhancer on a data set.

    python -m recipes.evaluate asr=beam data=dev.tsv output=outputs/dev_beam.json
    python -m recipes.evaluate asr=greedy data=dev.tsv model=outputs/ctc_compact/model
    python -m recipes.evaluate enhance=adaptcrn data=outputs/enhance_dev
    python -m recipes.evaluate enhance=FOLDER_OF_ENHANCED_FILES data=VoiceBank-DEMAND wer=false

Recognition reads a table (columns id, path, text) or a lhotse manifest and reports raw and normalised word
error rates with 95 % intervals and per speaker. Enhancement reads a folder of noisy and clean pairs; its
metrics are described in recipes/evaluate_enhance.py. Results go to standard output as a table and, with
`output`, into a JSON file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Evaluation:
    """What can be given as key=value.

    Args:
        data: table of recordings (asr) or folder of pairs (enhance).
        asr: decoder, "greedy" or "beam".
        enhance: enhancer by name or folder, or a folder of enhanced files.
        model: folder or Hub id of the recogniser; null is the compact one.
        texts: table with the texts of an enhancement set, for its word error rates.
        wer: transcribe when evaluating enhancement.
        limit: use only so many recordings, spread evenly.
        workers: processes that compute enhancement metrics.
        output: JSON file for the result.
    """

    data: str = "???"
    asr: str | None = None
    enhance: str | None = None
    model: str | None = None
    texts: str | None = None
    wer: bool = True
    limit: int | None = None
    workers: int = 1
    output: str | None = None


def evaluate_recognition(config: Evaluation) -> dict:
    """Word error rates of a table's recordings, segmentation and all, as `asr.score.report` gives them."""
    from tqdm import tqdm

    from asr import Transcriber
    from asr.recogniser import DecodeOptions
    from asr.score import report
    from recipes.corpora import read_table

    recordings = read_table(config.data)
    if config.limit:
        recordings = recordings[:: -(-len(recordings) // config.limit)]
    transcriber = Transcriber.from_pretrained(
        config.model, options=DecodeOptions(decoder=config.asr, word_timestamps=False)
    )
    by_path = {str(r.path): r for r in recordings}
    hypotheses = {r.id: "" for r in recordings}
    with tqdm(total=len(by_path), unit="file", file=sys.stderr) as bar:

        def failed(path, error):
            bar.write(str(error), file=sys.stderr)
            bar.update()

        for path, transcript in transcriber.transcribe_many(by_path, failed):
            hypotheses[by_path[path].id] = transcript.text
            bar.update()
    result = report({r.id: r.text for r in recordings}, hypotheses, by_speaker=True)
    return {**result, "hypotheses": hypotheses}


def print_recognition(result: dict) -> None:
    print(f"{result['utterances']} utterances")
    for score in result["scores"]:
        low, high = score["interval"]
        print(
            f"normaliser {score['normaliser']}: WER {score['wer']:.2%} ({low:.2%}-{high:.2%})  CER {score['cer']:.2%}  "
            f"substitutions {score['substitutions']} insertions {score['insertions']} deletions {score['deletions']}"
        )
    for speaker, row in result["speakers"].items():
        print(f"speaker {speaker}: {row['utterances']} utterances, WER {row['wer']:.2%}")


def evaluate(config: Evaluation) -> dict:
    """Run what the configuration asks for and print it.

    Raises:
        ValueError: neither or both of asr and enhance are given.
    """
    if (config.asr is None) == (config.enhance is None):
        raise ValueError("say what to evaluate: asr=greedy|beam or enhance=NAME, one of the two")
    if config.asr:
        result = evaluate_recognition(config)
        print_recognition(result)
        return result
    from recipes.evaluate_enhance import METRICS, evaluate_enhancement, format_table

    texts = Path(config.texts) if config.texts else None
    result = evaluate_enhancement(
        Path(config.data), config.enhance, METRICS, texts, config.wer, config.limit, config.workers
    )
    print(format_table(result))
    return result


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from asr.audio.io import atomic_path

    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Evaluation), OmegaConf.from_cli(argv)))
        result = evaluate(config)
    except (ValueError, OSError, OmegaConfBaseException) as error:
        print(f"recipes.evaluate: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    if config.output:
        with atomic_path(Path(config.output)) as partial:
            partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
