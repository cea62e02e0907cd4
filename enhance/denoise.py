"""Remove noise from recordings of speech.

    python -m enhance.denoise noisy.wav interview.mp3 -o clean/
    python -m enhance.denoise noisy.wav -o clean.wav
    python -m enhance.denoise recordings/ 'more/*.flac' -o clean/
    python -m enhance.denoise - < noisy.wav > clean.wav
    arecord -t raw -f S16_LE -r 16000 | python -m enhance.denoise - --raw | aplay -t raw -f S16_LE -r 16000

Any sampling rate, channel count and bit depth; the output has the same, and the same length. WAV and FLAC stay what
they are, everything else becomes WAV.
Exit code: 0 all done, 1 some inputs failed and the rest is done, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asr.audio.formats import is_audio
from asr.console.inputs import expand_inputs
from asr.console.outputs import name_outputs
from asr.console.program import FAILED, OutputError, UsageError, complain, emit_bytes, program, program_name, reason

if TYPE_CHECKING:
    from asr.audio.report import Report
    from asr.audio.views import View

KEPT_SUFFIXES = (".wav", ".flac")
RAW_BLOCK = 256  # samples of 16 bits: one hop of 16 ms


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program_name("enhance.denoise"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("audio", nargs="+", metavar="IN", help="files, folders, patterns, or - for standard input")
    parser.add_argument(
        "-o", "--output", "--output_dir", type=Path, metavar="OUT",
        help="folder of the enhanced recordings; of a single one also a .wav or .flac file",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="adaptcrn, or the folder or hub id of a model (default: the compact AdaptCRN)"
    )
    parser.add_argument(
        "--attenuation_limit", type=float, metavar="DB", help="remove at most this much; 0 changes nothing"
    )
    parser.add_argument(
        "--plot",
        action="store_true",
        help="also write a PNG: spectrograms of the first minute, chosen kernels",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="live pipe: mono 16-bit samples at 16 kHz without header, 32 ms latency",
    )
    parser.add_argument(
        "--strict", action="store_true",
        help="refuse damaged recordings (default: silence where nothing can be decoded, a line on it, exit 1)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args(argv)
    piped = args.audio == ["-"]
    if args.output is None and not piped:
        parser.error("-o OUT is needed, unless the only input is -")
    if args.raw and (not piped or args.output):
        parser.error("--raw works from standard input to standard output: give - as the only input and no -o")
    if args.plot and args.output is None:
        parser.error("--plot needs -o to write to")
    if args.attenuation_limit is not None and not args.attenuation_limit >= 0:
        parser.error(f"--attenuation_limit is {args.attenuation_limit} dB; it must be 0 or more")
    if args.threads is not None and args.threads < 1:
        parser.error(f"--threads is {args.threads}; it must be at least 1")
    return args


def targets_of(inputs: dict[str, Path], output: Path) -> dict[str, Path]:
    """Where the enhanced version of each input goes.

    Raises:
        UsageError: a recording would be overwritten, or `output` cannot hold what it should.
    """
    if is_audio(output) and not output.is_dir():
        if output.suffix.lower() not in KEPT_SUFFIXES:
            raise UsageError(f"-o {output}: {output.suffix} cannot be written; choose .wav or .flac")
        if len(inputs) > 1:
            raise UsageError(f"-o {output}: names one file, but there are {len(inputs)} inputs; give a folder")
        targets = {source: output for source in inputs}
    else:
        targets, remarks = name_outputs(inputs, output, _enhanced_name)
        for remark in remarks:
            complain(remark)
    for source, target in targets.items():
        if source != "-" and target.exists() and Path(source).exists() and target.samefile(source):
            raise UsageError(f"{source} would be overwritten; choose another place with -o")
    return targets


def _enhanced_name(path: Path) -> Path:
    return path if path.suffix.lower() in KEPT_SUFFIXES else path.with_suffix(".wav")


@program
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        return run(args)
    except UsageError as error:
        complain(f"python -m enhance.denoise: error: {error}")
        return 2


def run(args: argparse.Namespace) -> int:
    piped = args.output is None
    inputs, failures = ({"-": Path("-")}, []) if piped else expand_inputs(args.audio)
    targets = {} if piped else targets_of(inputs, args.output)
    for failure in failures:
        complain(failure)
    if not inputs:
        return FAILED
    denoiser = _load(args)
    if args.raw:
        from enhance.loading import load_enhancer

        _live(load_enhancer(args.model), args.attenuation_limit)
        return 0
    if piped:
        return 0 if _reported("-", lambda: _pipe(denoiser, args.strict)) else FAILED
    done = [_reported(source, _work(denoiser, source, target, args)) for source, target in targets.items()]
    return 0 if all(done) and not failures else FAILED


def _load(args: argparse.Namespace):
    import torch

    from enhance.denoiser import Denoiser

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        denoiser = Denoiser.from_pretrained(args.model, attenuation_limit=args.attenuation_limit, device=args.device)
    except (OSError, ValueError, ImportError, RuntimeError, AssertionError) as error:  # last two: no such device
        raise UsageError(f"the model cannot be loaded: {reason(error)}") from error
    if (args.raw or args.plot) and not denoiser.streams:
        raise UsageError(f"{args.model} enhances whole recordings and has no frames: leave out --raw and --plot")
    return denoiser


def _work(denoiser, source: str, target: Path, args: argparse.Namespace) -> Callable[[], None]:
    """The whole of what is done with one input."""

    def work() -> None:
        with _read_once(source) as recording:
            with _progress(source) as bar, _told_of(source, args.strict) as report:
                denoiser.denoise_file(recording, target, bar.update, report)
            if args.plot:
                from enhance.plot import plot_enhancement

                recording.seek(0)
                plot_enhancement(denoiser, recording, target.with_suffix(".png"))

    return work


@contextmanager
def _read_once(source: str) -> Iterator[View]:
    """The recording as a file to be read again and again, be it a pipe."""
    from asr.audio.io import opened, source_name
    from asr.audio.views import View

    with opened(source, source_name(source)) as file:
        recording = View(file, 0, file.seek(0, os.SEEK_END))
        recording.name = source_name(source)
        yield recording


@contextmanager
def _told_of(source: str, strict: bool) -> Iterator[Report]:
    """A report on the recording; at the end what is odd about it is said, and what is missing raised."""
    from asr.audio.errors import AudioError
    from asr.audio.io import source_name
    from asr.audio.report import Report, told

    report = Report(strict=strict)
    yield report
    for remark in report.remarks:
        complain(f"{source_name(source)}: {remark}")
    if report.missing:
        raise AudioError(f"{source_name(source)}: {told(report.missing)}")


def _reported(source: str, work: Callable[[], None]) -> bool:
    """Whether the work succeeded; one line on standard error where it did not."""
    try:
        work()
    except (BrokenPipeError, OutputError):
        raise
    except (OSError, ValueError, ImportError) as error:
        name, message = "stdin" if source == "-" else source, reason(error)
        complain(message if message.startswith(f"{name}:") else f"{name}: {message}")
        return False
    return True


def _progress(source: str):
    """A progress bar on standard error, in seconds of audio; none where that is no terminal."""
    from tqdm import tqdm

    from asr.audio.io import duration

    seconds = duration(source)
    total = None if seconds is None else round(seconds, 2)
    return tqdm(desc=Path(source).name, total=total, unit="s", unit_scale=True, file=sys.stderr, disable=None)


def _pipe(denoiser, strict: bool) -> None:
    """Standard input to standard output as WAV files; the header needs the length, so the output is spooled."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.wav"
        with _told_of("-", strict) as report:
            denoiser.denoise_file("-", target, report=report)
            with open(target, "rb") as file:
                while block := file.read(1 << 20):
                    emit_bytes(block)


def _live(enhancer, attenuation_limit: float | None) -> None:
    """Raw samples as they come; the output is aligned with the input, each sample as soon as it is known."""
    import numpy as np

    from enhance.streaming import StreamingDenoiser

    denoiser = StreamingDenoiser(enhancer, attenuation_limit=attenuation_limit)
    skip = denoiser.latency
    source = sys.stdin.buffer

    def write(samples: np.ndarray) -> None:
        nonlocal skip
        kept, skip = samples[skip:], max(0, skip - len(samples))
        emit_bytes(np.clip(np.round(kept * 32768), -32768, 32767).astype("<i2").tobytes())

    while data := source.read(2 * RAW_BLOCK):
        write(denoiser.process(np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768))
    write(denoiser.flush())


if __name__ == "__main__":
    sys.exit(main())
