"""Transcribe recordings: text, subtitles or JSON out of audio files.

    python -m asr.transcribe talk.mp3
    python -m asr.transcribe recordings/ -o subtitles -f srt --max_line_width 42 --max_line_count 2
    ffmpeg -i film.mkv -f wav - | python -m asr.transcribe -
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from asr.console.inputs import expand_inputs
from asr.console.outputs import name_outputs
from asr.console.program import FAILED, UsageError, complain, program, program_name, reason

FORMATS = ("txt", "srt", "vtt", "lrc", "tsv", "json")
SUBTITLES = ("srt", "vtt", "lrc", "all")  # formats whose lines are limited
STREAMABLE = ("txt", "json")  # formats that standard output can have of several inputs
LINE_LIMITS = ("max_line_width", "max_line_count", "max_words_per_line")

DESCRIPTION = """Transcribe speech to text.

Without -o, the result goes to standard output: for one input in the chosen format, for several as one line
each, "path<TAB>text" (txt) or a JSON object (json). With -o, files named after the inputs are written and
standard output stays empty. Messages and progress go to standard error."""

EPILOG = """exit status: 0 all good, 1 some inputs failed (a line each on standard error, the rest is done),
2 wrong usage, 130 interrupted"""


@program
def main(argv: list[str] | None = None) -> int:
    """Run the program with its arguments; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except UsageError as error:
        complain(f"{parser.prog}: error: {error}")  # one line, without the usage that a spelling mistake brings
        return 2


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name("asr.transcribe"), description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("audio", nargs="+", help="files, folders, glob patterns, @list.txt (one a line, # for remarks),"
           " or - for standard input")
    option("--model", help="tiny, which ships, or the folder or Hub id of another model (default: tiny)")
    option("--compute_type", choices=("auto", "float32", "bfloat16", "int8"), default="auto",
           help="number format; auto is int8 where the processor is made for it (default: %(default)s)")
    option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps ... (default: %(default)s)")
    option("--threads", type=_positive, help="CPU threads (default: what torch chooses)")
    option("--batch_size", type=_positive, default=8, help="segments at once (default: %(default)s)")
    option("--verbose", action="store_true",
           help="show each segment with its times on standard error, as soon as it is recognised")

    option = parser.add_argument_group("recording").add_argument
    option("--channel", type=_positive, metavar="N",
           help="transcribe this channel (default: their mix; the louder one where they cancel each other)")
    option("--audio_track", type=_positive, metavar="N",
           help="of a file with several audio tracks (default: the one that the file calls its default)")
    option("--clip_timestamps", metavar="S,E,...",
           help="transcribe only from second S to E and so on (default: all; the last one may lack its end)")
    option("--strict", action="store_true",
           help="refuse damaged recordings (default: transcribe what can be decoded, name what is missing, exit 1)")

    _output_options(parser)
    _recognition_options(parser)
    return parser


def _output_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument_group("output").add_argument
    option("-o", "--output_dir", type=Path, help="folder for the output files")
    option("-f", "--output_format", choices=(*FORMATS, "all"), default="txt",
           help="format (default: %(default)s); all needs -o")
    option("--word_timestamps", action="store_true",
           help="times and confidence of each word, in json; line limits imply it")
    option("--timestamps", action="store_true", help="times of each segment in txt")
    option("--max_line_width", type=_positive, help="characters in a subtitle line (default: 42)")
    option("--max_line_count", type=_positive, help="lines in a subtitle (default: 2; 1 with --max_line_width)")
    option("--max_words_per_line", type=_positive, help="words in a subtitle")
    option("--whole_segments", action="store_true", help="a subtitle for each segment, however long")
    option("--skip_existing", action="store_true", help="leave out recordings whose outputs are there already")
    option("--quiet", action="store_true", help="no progress on standard error; problems are still named there")


def _recognition_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument_group("recognition").add_argument
    option("--decoder", choices=("greedy", "beam", "dllm", "ar", "speculative", "fused",
                                 "rescored"),
           help="CTC: greedy or beam; on top of it: dllm denoises the CTC draft, ar writes token by token, speculative "
                "does so verifying the draft, fused searches with the n-gram while it does so, rescored lets the model "
                "of ar judge the texts of the beam (default: the model's own)")
    option("--decoder_model", metavar="NAME", help="folder or Hub id of the model behind the last five decoders, "
           "of a --model that brings none")
    option("--denoising", nargs="+", default=[], metavar="KEY=VALUE",
           help="choices of the dllm decoder: prior, threshold, slots, commit, pruning, early_exit, speech_cache, "
                "elastic, max_passes ... (asr.dllm.choices.DenoisingDecode)")
    option("--show_denoising", action="store_true", help="print the canvas pass by pass on standard error")
    option("--denoising_figure", type=Path, metavar="FILE.html", help="write the canvas pass by pass as a figure")
    option("--beam_size", type=_positive, help="hypotheses kept by the beam (default: 16)")
    option("--vad_onset", type=float, default=0.5, metavar="P",
           help="speech probability from which on audio is transcribed; 0: all (default: %(default)s)")
    option("--language", metavar="CODE", help="spoken language, for multilingual models (default: the model finds out)")
    option("--task", choices=("transcribe", "translate"), default="transcribe",
           help="translate into English, where the model can (default: %(default)s)")
    option("--initial_prompt", metavar="TEXT", help="names, spelling and style for Whisper models")
    option("--temperature", type=float, default=0.0, help="above 0 tokens are drawn (Whisper; default: %(default)s)")
    option("--hotwords", metavar="NAMES",
           help='names to expect, "Hepzibah, Moby Dick" or @FILE, one a line (decoders ar and beam, faster-whisper)')
    option("--hotword_strength", type=float, metavar="NATS",
           help="how much each token of a name counts (default: as measured; too much writes names that nobody said)")
    option("--enhance", metavar="NAME", help="clean the speech first with this enhancement model")
    option("--enhance_mix", type=_share, default=0.6, metavar="SHARE",
           help="share of the noisy speech that stays in what the recogniser hears, 0 to 1; an enhancer takes away "
                "speech too (default: %(default)s, with which adaptcrn helps)")
    option("--correct", action="store_true",
           help="restore case and punctuation where the recogniser writes none, words as they are")
    option("--correct_model", action="append", metavar="NAME",
           help="do so with this model, or correct words with it: a folder or Hub id; may be given several times "
                "(default: writing, the one in the package)")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return share


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    inputs, failures = expand_inputs(args.audio)
    targets = _targets(inputs, args) if args.output_dir else {}
    several_files = args.output_format == "all" or (args.output_format not in STREAMABLE and len(inputs) > 1)
    if several_files and not targets:
        raise UsageError(f"-f {args.output_format} makes several files here: say where with -o")
    for failure in failures:
        complain(failure)
    if args.skip_existing:
        inputs, targets = _without_existing(inputs, targets)
    if not inputs:
        return FAILED if failures else 0
    transcriber, limits = _build(args)
    from asr.audio.io import source_name
    from asr.audio.report import told
    from asr.output.results import Results

    with _progress_bar(inputs, args.quiet) as bar:
        rewritten = transcriber.writer is not None
        results = Results(
            targets, args.output_format, limits, len(inputs) > 1, args.timestamps, args.verbose, rewritten, bar
        )

        def failed(source, error):
            failures.append(str(error))
            complain(error)

        eager = args.verbose or results.is_streamed
        try:
            done = transcriber.transcribe_many(inputs, failed, bar.update, results.ready, eager)
            for source, transcript in done:
                for remark in transcript.remarks:
                    complain(f"{source_name(source)}: {remark}")
                if transcript.missing:
                    failed(source, f"{source_name(source)}: {told(transcript.missing)}")
                try:
                    results.finish(source, transcript)
                except OSError as error:
                    if not targets:
                        raise
                    failed(source, f"{source}: its transcript cannot be written ({reason(error)})")
        except (KeyboardInterrupt, SystemExit):
            results.keep()
            raise
    return FAILED if failures else 0


def _without_existing(inputs: dict[str, Path], targets: dict) -> tuple[dict[str, Path], dict]:
    """The inputs one of whose outputs is not there yet, and their outputs."""
    if not targets:
        raise UsageError("--skip_existing needs -o: it looks for outputs there")
    missing = {source for source, paths in targets.items() if not all(path.exists() for path in paths.values())}
    if len(missing) < len(inputs):
        complain(f"{len(inputs) - len(missing)} of {len(inputs)} recordings are done already")
    return {s: p for s, p in inputs.items() if s in missing}, {s: p for s, p in targets.items() if s in missing}


def _targets(inputs: dict[str, Path], args: argparse.Namespace) -> dict[str, dict[str, Path]]:
    """Output path of every input and format."""
    formats = FORMATS if args.output_format == "all" else (args.output_format,)
    spare = len(".partial.json")
    stems, remarks = name_outputs(inputs, args.output_dir, lambda path: path.with_suffix(""), spare)
    for remark in remarks:
        complain(remark)
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {args.output_dir}: cannot make this folder ({error.strerror})") from None
    return {source: {name: Path(f"{stem}.{name}") for name in formats} for source, stem in stems.items()}


def _build(args: argparse.Namespace):
    """The transcriber and the line limits that the arguments ask for."""
    from asr.output.subtitles import USUAL, LineLimits

    try:
        limits = LineLimits(**{name: getattr(args, name) for name in LINE_LIMITS})
        if args.whole_segments and limits:
            raise UsageError("--whole_segments and line limits exclude each other")
        if not limits and not args.whole_segments and args.output_format in SUBTITLES:
            limits = USUAL
        if args.beam_size and args.decoder == "greedy":
            raise UsageError("--beam_size has no meaning with --decoder greedy")
        if args.correct_model and not args.correct:
            raise UsageError("--correct_model needs --correct")
        shows = args.show_denoising or args.denoising_figure
        if (args.denoising or shows) and args.decoder != "dllm":
            raise UsageError("--denoising, --show_denoising and --denoising_figure need --decoder dllm")
        if args.timestamps and args.output_format not in ("txt", "all"):
            raise UsageError(f"--timestamps is for txt; {args.output_format} has times of its own")
        from asr.audio.clips import parse_clips
        from asr.audio.segment import Segmenter

        segmenter = Segmenter(onset=args.vad_onset)
        import torch

        if args.threads:
            torch.set_num_threads(args.threads)
        from asr.dllm.choices import parse_choices
        from asr.recogniser import DecodeOptions
        from asr.text.hotwords import parse_hotwords
        from asr.transcriber import Transcriber

        options = DecodeOptions(
            args.decoder, args.beam_size or 16, args.word_timestamps or bool(limits), args.decoder_model,
            parse_choices(args.denoising), args.language, args.task, args.initial_prompt, args.temperature,
            parse_hotwords(args.hotwords) if args.hotwords is not None else (), args.hotword_strength,
        )
        transcriber = Transcriber.from_pretrained(
            args.model, args.device, args.compute_type, batch_size=args.batch_size, options=options,
            segmenter=segmenter, channel=args.channel, track=args.audio_track, strict=args.strict,
            clips=parse_clips(args.clip_timestamps) if args.clip_timestamps else None,
            enhancer=_enhancer(args.enhance, args.enhance_mix),
            **_correctors(args),
        )
        if shows:
            transcriber.recogniser.on_denoised = _denoising_view(args, transcriber.recogniser.vocabulary)
    except (ValueError, OSError, ImportError, RuntimeError, AssertionError) as error:
        # torch raises the last two for a device that is not there.
        raise UsageError(reason(error)) from error
    return transcriber, limits


def _denoising_view(args: argparse.Namespace, tokenizer) -> Callable:
    """What is done with every batch that has been denoised."""
    from asr.dllm.view import Figure, as_text

    figure = Figure(args.denoising_figure, tokenizer) if args.denoising_figure else None

    def view(result) -> None:
        if args.show_denoising:
            print(as_text(result, tokenizer, colour=sys.stderr.isatty()), file=sys.stderr)
        if figure:
            figure.add(result)

    return view


def _enhancer(name: str | None, share: float) -> Callable | None:
    if name is None:
        return None
    try:
        from enhance import Denoiser
        from enhance.denoiser import limit_of_share
    except ImportError as error:
        raise UsageError(f"--enhance {name}: speech enhancement is not available ({error})") from error
    return Denoiser.from_pretrained(name, attenuation_limit=limit_of_share(share))


def _correctors(args: argparse.Namespace) -> dict[str, Callable | None]:
    """What is done to words, segment by segment, and to the writing of whole transcripts."""
    if not args.correct:
        return {}
    try:
        from dlm.loading import SHIPPED, by_kind
    except ImportError as error:
        raise UsageError(f"--correct: correction is not available ({error})") from error
    words, writing = by_kind(args.correct_model or SHIPPED)
    return {"corrector": words, "writer": writing and writing.write}


def _progress_bar(inputs, quiet: bool):
    """Seconds of audio done, shown on a terminal when the work is long."""
    from tqdm import tqdm

    from asr.audio.io import duration

    shown = sys.stderr.isatty() and not quiet
    durations = [duration(source) for source in inputs] if shown else []
    total = round(sum(durations), 1) if durations and None not in durations else None
    return tqdm(total=total, unit="s", unit_scale=True, delay=2, disable=not shown, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
