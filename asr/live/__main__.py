"""Live captions: what is being said, from a microphone or from raw samples on standard input.

    python -m asr.live                                            # the microphone (pip install '.[live]')
    arecord -t raw -f S16_LE -r 16000 | python -m asr.live -      # raw samples
    ffmpeg -i talk.mp3 -f s16le -ac 2 -ar 44100 - | python -m asr.live - --rate 44100 --channels 2
    python -m asr.live talk.mp3                                   # a recording, as if it were spoken now

On a terminal the current line changes until it settles; elsewhere each finished segment is one line. Words that two
recognitions in a row agree on are settled and do not change any more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

from asr.console.program import UsageError, complain, emit, json_text, printable, program, program_name

CLEAR = "\r\x1b[K"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name("asr.live"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("source", nargs="?", help="- for raw samples on standard input, or a recording (default: the microphone)")
    option("--rate", type=int, default=16_000, help="Hz of raw samples (default: %(default)s)")
    option("--channels", type=int, default=1, help="channels of raw samples (default: %(default)s)")
    option("--sample_format", choices=("s16le", "f32le"), default="s16le", help="of raw samples (default: %(default)s)")
    option("--microphone", metavar="NAME", help="name or number of the input device (python -m sounddevice lists them)")
    option("--model", help="name of a shipped model, folder or Hub id")
    option("--device", default="auto", help="auto, cpu, cuda ... (default: %(default)s)")
    option("--threads", type=int, help="CPU threads (default: what torch chooses)")
    option("--enhance", action="store_true", help="clean the sound with AdaptCRN first")
    option("--step", type=float, default=0.5, help="seconds between two recognitions (default: %(default)s)")
    option("--json", action="store_true", help="every event as a line of JSON")
    option("--delays", action="store_true", help="say at the end how long words took to settle, on standard error")
    return parser


@program
def main(argv: list[str] | None = None) -> int:
    """Run the program with its arguments; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.rate < 1 or args.channels < 1:
        parser.error("--rate and --channels must be at least 1")
    try:
        return _run(args)
    except UsageError as error:
        parser.error(printable(str(error)))


def _run(args: argparse.Namespace) -> int:
    from asr.audio.errors import AudioError
    from asr.live.delays import Delays

    live, clean = _build(args)
    show = _as_json if args.json else _as_captions(sys.stdout.isatty())
    failed = False
    blocks = _blocks(args)
    state, delays = live.start(), None
    try:
        for block in blocks:
            delays = delays or Delays()
            events = live.push(state, clean(block))
            delays.note(events)
            show(events)
    except AudioError as error:
        complain(error)
        failed = True
    except KeyboardInterrupt:
        pass  # how a microphone ends
    events = live.finish(state)
    if delays is not None:
        delays.note(events)
    show(events)
    if args.delays and delays is not None:
        complain(delays.report())
    return 1 if failed else 0


def _build(args: argparse.Namespace):
    """The live transcriber, and what cleans each block before it."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    from asr.live.stream import LiveTranscriber
    from asr.transcriber import Transcriber

    clean: Callable = lambda block: block  # noqa: E731
    try:
        live = LiveTranscriber(Transcriber.from_pretrained(args.model, args.device).recognise, step=args.step)
        if args.enhance:
            from enhance import StreamingDenoiser

            clean = StreamingDenoiser().process
    except (ValueError, OSError, ImportError, RuntimeError, AssertionError) as error:
        raise UsageError(str(error).strip().splitlines()[0]) from error
    return live, clean


def _blocks(args: argparse.Namespace) -> Iterator:
    """Blocks [samples] at 16 kHz of the source."""
    from asr.live.sources import microphone_blocks, paced, raw_blocks

    if args.source is None:
        device = int(args.microphone) if (args.microphone or "").isdigit() else args.microphone
        return microphone_blocks(device)
    if args.source == "-":
        return raw_blocks(sys.stdin.buffer, args.rate, args.channels, args.sample_format)
    from asr.audio import stream

    return paced(_short(stream(args.source)))


def _short(blocks: Iterator) -> Iterator:
    """The same samples in blocks of a tenth of a second, as a microphone gives them."""
    for block in blocks:
        for first in range(0, len(block), 1600):
            yield block[first : first + 1600]


def _as_json(events: list) -> None:
    for event in events:
        segment = event.segment
        words = [{"text": w.text, "start": w.start, "end": w.end, "confidence": w.confidence} for w in segment.words]
        emit(json_text({
            "kind": event.kind, "start": segment.start, "end": segment.end, "text": segment.text,
            "settled": event.settled, "words": words,
        }))  # fmt: skip


def _as_captions(terminal: bool) -> Callable[[list], None]:
    """Finished segments as lines with their times; on a terminal the current one below them, unsettled words dim."""

    def show(events: list) -> None:
        for event in events:
            if event.kind == "final":
                line = f"[{_clock(event.segment.start)} - {_clock(event.segment.end)}] {event.segment.text}\n"
                emit(CLEAR + line if terminal else line)
            elif terminal:
                text = f"{event.settled_text} \x1b[2m{event.pending_text}\x1b[0m"
                emit(CLEAR + text)

    return show


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{seconds % 60:05.2f}"


if __name__ == "__main__":
    sys.exit(main())
