"""How much faster than its autoregressive twin the denoiser decodes, by the width and depth of the decoder.

    python -m recipes.benchmark dllm_sizes --out outputs/dllm_sizes
    python -m recipes.benchmark dllm_sizes --widths 384 1024 --layers 4 12 24 --seconds 10 20 --compute_type bfloat16

The weights are random: times do not depend on what they know, only numbers of tokens and passes do, and those are
given. The twin writes --rate tokens a second of speech, each in a step with a cache. The denoiser computes its canvas
of a slot every 160 ms in --open passes, of which each says the share of the slots that it still computes; the text on
the rest, which the causal decoder below has read, stays in its cache up to the first token that changed. Both start
from the encoder's output, so keys and values of the speech are counted. One thread; medians of --repeats, in
processor time, which other work does not stretch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from asr.console.program import program
from recipes.evaluation.figures import panels, save_png
from recipes.evaluation.side_by_side import make_parser, table, write_json

FRAME, SLOT = 0.02, 0.16  # seconds
HEAD = 64  # width of an attention head, as in Whisper
PAPER = 4.44  # times faster: dLLM-ASR (arXiv 2601.17902), Table 1
SEED = 0


@dataclass(frozen=True)
class Work:
    """What is decoded.

    Attributes:
        seconds: of speech.
        rate: tokens a second.
        open: share of the slots that each pass computes.
    """

    seconds: float
    rate: float
    open: tuple[float, ...]

    @property
    def frames(self) -> int:
        return round(self.seconds / FRAME)

    @property
    def tokens(self) -> int:
        return max(1, round(self.seconds * self.rate))

    @property
    def slots(self) -> int:
        return max(self.tokens, round(self.seconds / SLOT))


def make(width: int, layers: int, vocabulary: int, compute_type: str):
    """A denoiser on a decoder with random weights, in a number format, and how many weights the decoder has."""
    import torch

    from asr.hybrid.decoder import DecoderSizes, TextDecoder
    from asr.hybrid.denoiser import SlotDenoiser, SlotLayers, SlotSizes
    from asr.hybrid.precision import in_type

    torch.manual_seed(SEED)
    sizes = DecoderSizes(vocabulary, width, width // HEAD, layers, 4 * width)
    decoder, top = TextDecoder(sizes), SlotLayers(SlotSizes(), sizes)
    weights = sum(p.numel() for p in decoder.parameters())
    return SlotDenoiser(in_type(decoder, compute_type), in_type(top, compute_type), step=2).eval(), weights


def twin(writer, hidden, work: Work) -> None:
    """Write all tokens one by one."""
    import torch

    from asr.ar.greedy import NEVER, next_tokens

    speech, cache = writer.remember(hidden, torch.tensor([work.frames])), writer.new_cache()
    token = torch.zeros(1, 1, dtype=torch.long)
    for _ in range(work.tokens + 1):  # the end of the text is a step too
        token, _ = next_tokens(writer, token, speech, cache, NEVER)


def denoiser(model, hidden, work: Work) -> None:
    """Settle the canvas in as many passes as `work.open` has shares."""
    import torch

    speech, cache = model.remember(hidden, torch.tensor([work.frames])), model.new_cache()
    slots, generator = work.slots, torch.Generator().manual_seed(SEED)
    guesses = torch.zeros(1, slots, dtype=torch.long)  # 0 is an empty slot
    filled = torch.linspace(0, slots - 1, work.tokens).long()
    guesses[0, filled] = 10
    sure = torch.rand(1, slots, generator=generator)
    order = torch.randperm(slots, generator=generator)
    for number, share in enumerate(work.open):
        active = order[: max(1, round(share * slots))].sort().values[None]
        canvas = guesses.scatter(1, active, 1)
        found = model.denoise(canvas, speech, active=None if share == 1 else active, cache=cache,
                              guesses=guesses, sure=sure).argmax(-1)  # fmt: skip
        del found  # random weights must not decide how long the text is: tokens that are open change, no more
        changed = guesses[0, active[0]] > 0
        guesses[0, active[0][changed]] = 11 + number


def measure(model, work: Work, repeats: int) -> dict[str, float]:
    """Median milliseconds of both and how many times faster the denoiser is."""
    import torch

    from asr.hybrid.linear8 import Linear8
    from asr.hybrid.stepping import SteppingDecoder

    dtype, writer = model.top.dtype, model.decoder
    if isinstance(writer.output, Linear8):  # its fastest form
        writer = SteppingDecoder(writer, pays_after=0, frequent=0)  # random weights are never sure
    hidden = torch.randn(1, work.frames, model.decoder.sizes.width, generator=torch.Generator().manual_seed(SEED))
    ways: dict[str, Callable[[], None]] = {
        "twin": lambda: twin(writer, hidden.to(dtype), work),
        "denoiser": lambda: denoiser(model, hidden.to(dtype), work),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for repeat in range(repeats + 1):  # in turn, so that both meet the same load; the first warms up
            for name, way in ways.items():
                start = time.thread_time()
                way()
                if repeat:
                    spent[name].append(1e3 * (time.thread_time() - start))
    found = {name: median(times) for name, times in spent.items()}
    return {**found, "factor": found["twin"] / found["denoiser"]}


def all_sizes(args, progress: Callable[[], object]) -> Iterator[dict]:
    """A row for each size and length."""
    for width in args.widths:
        for layers in args.layers:
            model, weights = make(width, layers, args.vocabulary, args.compute_type)
            for seconds in args.seconds:
                found = measure(model, Work(seconds, args.rate, tuple(args.open)), args.repeats)
                yield {"width": width, "layers": layers, "weights": weights, "seconds": seconds, **found}
                progress()


def draw(path: Path, rows: list[dict], about: str) -> None:
    """A panel for each length of speech: the factor against the width, a line for each depth."""
    lengths = sorted({row["seconds"] for row in rows})
    figure, places = panels(len(lengths), 5, 4)
    for axes, seconds in zip(places, lengths, strict=True):
        for layers in sorted({row["layers"] for row in rows}):
            chosen = [row for row in rows if (row["layers"], row["seconds"]) == (layers, seconds)]
            axes.plot([r["width"] for r in chosen], [r["factor"] for r in chosen], "o-", label=f"{layers} layers")
        axes.axhline(PAPER, color="grey", linestyle="--", label=f"the paper's {PAPER}")
        axes.set(title=f"{seconds:g} s of speech", xlabel="width of the decoder", ylabel="times faster than the twin")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(about, fontsize=9)
    save_png(figure, path)


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("dllm_sizes", __doc__)
    option = parser.add_argument
    option("--widths", type=int, nargs="+", default=[384, 512, 768, 1024, 1536], help=f"multiples of {HEAD}")
    option("--layers", type=int, nargs="+", default=[4, 8, 16], help="of the decoder (default: %(default)s)")
    option("--seconds", type=float, nargs="+", default=[10.0, 20.0], help="of speech (default: %(default)s)")
    option("--rate", type=float, default=3.0, help="tokens a second, as in dev.tsv (default: %(default)s)")
    option("--open", type=float, nargs="+", default=[1.0, 0.6, 0.45],
           help="shares of the slots that the passes compute, as the shipped denoiser does (default: %(default)s)")
    option("--vocabulary", type=int, default=41950, help="tokens (default: %(default)s)")
    option("--compute_type", default="int8", choices=("float32", "bfloat16", "int8"), help="default: %(default)s")
    option("--repeats", type=int, default=5, help="of which the median counts (default: %(default)s)")
    option("--out", type=Path, help="folder for result.json and factor.png")
    args = parser.parse_args(argv)
    if wrong := [width for width in args.widths if width < HEAD or width % HEAD]:
        parser.error(f"--widths {wrong[0]}: must be a multiple of {HEAD}, the width of an attention head")
    if not all(0 < share <= 1 for share in args.open):
        parser.error(f"--open {' '.join(map(str, args.open))}: shares are above 0 and at most 1")

    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    count = len(args.widths) * len(args.layers) * len(args.seconds)
    with tqdm(total=count, unit="size", file=sys.stderr) as bar:
        rows = list(all_sizes(args, bar.update))
    shares = " ".join(f"{share:g}" for share in args.open)
    about = f"{args.compute_type}, {args.rate:g} tokens a second, {len(args.open)} passes over {shares} of the slots"
    print(f"{about}\n")
    heads = ("width", "layers", "million weights", "speech, s", "twin, ms", "denoiser, ms", "times faster")
    print(table(heads, [
        (str(r["width"]), str(r["layers"]), f"{r['weights'] / 1e6:.0f}", f"{r['seconds']:g}", f"{r['twin']:.0f}",
         f"{r['denoiser']:.0f}", f"{r['factor']:.2f}") for r in rows
    ]))  # fmt: skip
    if args.out:
        write_json(args.out / "result.json", {"about": about, "rows": rows})
        draw(args.out / "factor.png", rows, about)
    return 0
