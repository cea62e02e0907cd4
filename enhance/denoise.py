"""Remove noise from recordings of speech.

    python -m enhance.denoise noisy.wav interview.mp3 -o clean/
    python -m enhance.denoise - < noisy.wav > clean.wav
    arecord -t raw -f S16_LE -r 16000 | python -m enhance.denoise - --raw | aplay -t raw -f S16_LE -r 16000

Any sampling rate and channel count; the output has the same rate, channels and length. WAV and FLAC stay what
they are, everything else becomes WAV. Formats that only ffmpeg reads become mono at 48 kHz.
Exit code: 0 all done, 1 some inputs failed and the rest is done, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

KEPT_SUFFIXES = {".wav", ".flac"}
RAW_BLOCK = 256  # samples of 16 bits: one hop of 16 ms


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m enhance.denoise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("audio", nargs="+", metavar="IN", help="recordings; - is standard input")
    parser.add_argument(
        "-o", "--output_dir", type=Path, metavar="DIR", help="folder of the enhanced recordings"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="architecture (adaptcrn, l3se), folder or hub id; default: the compact AdaptCRN"
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
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args(argv)
    piped = args.audio == ["-"]
    if args.output_dir is None and not piped:
        parser.error("-o DIR is needed, unless the only input is -")
    if args.raw and (not piped or args.output_dir):
        parser.error("--raw works from standard input to standard output: give - as the only input and no -o")
    if args.plot and args.output_dir is None:
        parser.error("--plot needs -o DIR to write to")
    if args.attenuation_limit is not None and not args.attenuation_limit >= 0:
        parser.error(f"--attenuation_limit is {args.attenuation_limit} dB; it must be 0 or more")
    if args.output_dir is not None:
        _check_targets(parser, args)
    return args


def _check_targets(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    targets: dict[Path, str] = {}
    for source in args.audio:
        target = target_of(source, args.output_dir)
        if target in targets:
            parser.error(f"{targets[target]} and {source} would both be written to {target}")
        if source != "-" and target.exists() and target.samefile(source):
            parser.error(f"{source} would be overwritten; choose another folder with -o")
        targets[target] = source


def target_of(source: str, folder: Path) -> Path:
    """Where the enhanced version of a source goes."""
    path = Path("stdin.wav" if source == "-" else source)
    suffix = path.suffix if path.suffix.lower() in KEPT_SUFFIXES else ".wav"
    return folder / f"{path.stem}{suffix}"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe went away
        sys.stderr.close()
        return 1


def run(args: argparse.Namespace) -> int:
    import torch

    from enhance.denoiser import Denoiser
    from enhance.loading import load_enhancer

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        denoiser = Denoiser.from_pretrained(
            args.model, attenuation_limit=args.attenuation_limit, device=args.device
        )
    except (OSError, ValueError, ImportError, RuntimeError, AssertionError) as error:  # last two: no such device
        print(f"cannot load the model: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    if (args.raw or args.plot) and not denoiser.streams:
        print(f"{args.model} enhances whole recordings and has no frames: leave out --raw and --plot", file=sys.stderr)
        return 2
    if args.raw:
        _live(load_enhancer(args.model), args.attenuation_limit)
        return 0
    if args.output_dir is None:
        return int(not _reported("stdin", lambda: _pipe(denoiser)))
    done = [_one_file(denoiser, source, args) for source in args.audio]
    return int(not all(done))


def _one_file(denoiser, source: str, args: argparse.Namespace) -> bool:
    target = target_of(source, args.output_dir)

    def work() -> None:
        with _progress(source) as bar:
            denoiser.denoise_file(source, target, bar.update)
        if args.plot:
            from enhance.plot import plot_enhancement

            plot_enhancement(denoiser, source, target.with_suffix(".png"))

    return _reported(source, work)


def _reported(source: str, work) -> bool:
    """Whether the work succeeded; one line on standard error where it did not."""
    try:
        work()
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        message = str(error).splitlines()[0]
        print(message if message.startswith(source) else f"{source}: {message}", file=sys.stderr)
        return False
    return True


def _progress(source: str):
    """A progress bar on standard error, in seconds of audio; none where that is no terminal."""
    from tqdm import tqdm

    from asr.audio.io import duration

    seconds = duration(source)
    total = None if seconds is None else round(seconds, 2)
    return tqdm(desc=Path(source).name, total=total, unit="s", unit_scale=True, file=sys.stderr, disable=None)


def _pipe(denoiser) -> None:
    """Standard input to standard output as WAV files; the header needs the length, so the output is spooled."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.wav"
        denoiser.denoise_file("-", target)
        with open(target, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _live(enhancer, attenuation_limit: float | None) -> None:
    """Raw samples as they come; the output is aligned with the input, each sample as soon as it is known."""
    import numpy as np

    from enhance.streaming import StreamingDenoiser

    denoiser = StreamingDenoiser(enhancer, attenuation_limit=attenuation_limit)
    skip = denoiser.latency
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def write(samples: np.ndarray) -> None:
        nonlocal skip
        kept, skip = samples[skip:], max(0, skip - len(samples))
        sink.write(np.clip(np.round(kept * 32768), -32768, 32767).astype("<i2").tobytes())
        sink.flush()

    while data := source.read(2 * RAW_BLOCK):
        write(denoiser.process(np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768))
    write(denoiser.flush())


if __name__ == "__main__":
    sys.exit(main())
