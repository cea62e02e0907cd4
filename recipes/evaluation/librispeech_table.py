"""The LibriSpeech results table: recognisers on dev and test, clean and other, in one command.

    python -m recipes.librispeech_table data/librispeech --out outputs/librispeech \\
        ctc=outputs/ctc_librispeech960/model:greedy \\
        dllm=outputs/ctc_librispeech960/model:dllm:outputs/denoiser_librispeech960/model \\
        large=outputs/dllm_asr_llada8b/model

A system is NAME=MODEL[:DECODER[:DECODER_MODEL]]; MODEL is a folder, a Hub id or the name of one that ships.
The parts are the tables of `recipes.prepare librispeech`. Texts are kept in OUT as they are found and nothing is
recognised twice, so an interrupted run goes on; several machines share the work with --shard_index I
--shard_count N, and a last run without them writes the table (results.md, results.json).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from asr.console.program import program

PARTS = ("dev-clean", "dev-other", "test-clean", "test-other")


@dataclass(frozen=True)
class System:
    """A row of the table."""

    name: str
    model: str
    decoder: str | None = None
    decoder_model: str | None = None

    @classmethod
    def parse(cls, text: str) -> System:
        """From NAME=MODEL[:DECODER[:DECODER_MODEL]].

        Raises:
            ValueError: it is not of that form.
        """
        name, equals, rest = text.partition("=")
        model, *more = rest.split(":")
        if not equals or not name or not model or len(more) > 2:
            raise ValueError(f"system {text!r} is not NAME=MODEL[:DECODER[:DECODER_MODEL]]")
        return cls(name, model, *(part or None for part in more))


def recognise(system: System, table: Path, found: Path, batch: int, device: str) -> None:
    """Append the missing texts of a table to `found`, a JSON object a line with the seconds it took."""
    import numpy as np
    from tqdm import tqdm

    from asr.loading import load_recogniser
    from asr.recogniser import DecodeOptions
    from recipes.data.corpora import read_table
    from recipes.data.table_data import with_durations

    done = read_found(sorted(found.parent.glob(f"{table.stem}.*.jsonl")))
    recordings = [r for r in read_table(table) if r.id not in done and _is_mine(r.id, found)]
    if not recordings:
        return
    recordings, seconds = with_durations(recordings)
    recogniser = load_recogniser(system.model, device)
    options = DecodeOptions(system.decoder, word_timestamps=False, decoder_model=system.decoder_model)
    order = np.argsort(-seconds)
    found.parent.mkdir(parents=True, exist_ok=True)
    with open(found, "a", encoding="utf-8") as file, tqdm(total=len(order), desc=f"{system.name} {table.stem}") as bar:
        if file.tell():
            file.write("\n")  # the last line may have been cut off
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            waves = [recordings[i].wave() for i in chosen]
            started = time.perf_counter()
            utterances = recogniser.transcribe_batch(waves, options)
            spent = time.perf_counter() - started
            for i, utterance in zip(chosen, utterances, strict=True):
                share = spent / len(chosen)
                row = {"id": recordings[i].id, "text": utterance.text, "audio": float(seconds[i]), "spent": share}
                file.write(json.dumps(row) + "\n")
            file.flush()
            bar.update(len(chosen))


def _is_mine(id: str, found: Path) -> bool:
    """Whether an utterance belongs to the share that a file such as dev-clean.2of8.jsonl holds."""
    import zlib

    index, _, count = found.suffixes[-2][1:].partition("of")
    return zlib.crc32(id.encode()) % int(count) == int(index)


def read_found(files: list[Path]) -> dict[str, dict]:
    """Rows by id; a line that was cut off by an interruption is left out."""
    rows = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            rows[row["id"]] = row
    return rows


def results(systems: list[System], folder: Path, parts: list[str], out: Path) -> dict:
    """Word error rates and speed of every system on every part, from the texts in `out`.

    Raises:
        ValueError: texts are missing.
    """
    from asr.score import report
    from recipes.data.corpora import read_table

    table: dict[str, dict] = {}
    for system in systems:
        for part in parts:
            references = {r.id: r.text for r in read_table(folder / f"{part}.tsv")}
            found = read_found(sorted((out / system.name).glob(f"{part}.*.jsonl")))
            if missing := [id for id in references if id not in found]:
                raise ValueError(f"{system.name} on {part}: {len(missing)} texts are missing; run all shards first")
            scored = report(references, {id: found[id]["text"].lower() for id in references})
            audio, spent = (sum(row[key] for row in found.values()) for key in ("audio", "spent"))
            table.setdefault(system.name, {})[part] = {"scores": scored["scores"], "speed": audio / spent}
    return table


def as_markdown(table: dict, parts: list[str]) -> str:
    """A row for each system: WER in percent (95 % interval) of normalised texts on each part, and its speed."""
    normaliser = next(iter(next(iter(table.values())).values()))["scores"][1]["normaliser"]
    lines = [
        f"Word error rate in percent, normaliser {normaliser}, 95 % interval; speed: seconds of audio a second.",
        "",
        "| system | " + " | ".join(parts) + " | speed |",
        "|---" * (len(parts) + 2) + "|",
    ]
    for name, row in table.items():
        cells = []
        for part in parts:
            score = row[part]["scores"][1]
            low, high = score["interval"]
            cells.append(f"{100 * score['wer']:.2f} ({100 * low:.2f}-{100 * high:.2f})")
        speed = sum(row[part]["speed"] for part in parts) / len(parts)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {speed:.0f} |")
    return "\n".join(lines)


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.librispeech_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="with the tables of LibriSpeech")
    parser.add_argument("systems", nargs="+", help="NAME=MODEL[:DECODER[:DECODER_MODEL]]")
    parser.add_argument("--out", type=Path, required=True, help="folder of texts and table")
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shard_index", type=int, help="this machine's number, from 0")
    parser.add_argument("--shard_count", type=int, default=1, help="number of machines")
    args = parser.parse_args(argv)
    try:
        systems = [System.parse(text) for text in args.systems]
        for system in systems:
            for part in args.parts:
                name = f"{part}.{args.shard_index or 0}of{args.shard_count}.jsonl"
                found = args.out / system.name / name
                recognise(system, args.folder / f"{part}.tsv", found, args.batch_size, args.device)
        if args.shard_index is None:
            write(results(systems, args.folder, args.parts, args.out), args.parts, args.out)
    except (ValueError, OSError) as error:
        print(f"recipes.librispeech_table: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def write(table: dict, parts: list[str], out: Path) -> None:
    from asr.audio.io import atomic_path

    text = as_markdown(table, parts)
    for name, content in (("results.md", text), ("results.json", json.dumps(table, indent=1))):
        with atomic_path(out / name) as partial:
            partial.write_text(content + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
