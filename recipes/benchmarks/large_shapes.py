"""Does denoising pay at the paper's shape? Random weights of Whisper-large-v3 and of LLaDA-8B, timed side by side.

    python -m recipes.benchmark large_shapes --passes 3.2 --batch 1 8          # a GPU of 40 GB or more, bfloat16
    python -m recipes.benchmark large_shapes --tiny                            # the same program on a CPU, seconds

Speed does not depend on the values of the weights as long as both sides do the same work, so the work is fixed: the
autoregressive side writes --tokens tokens one by one with a cache, the denoising side makes --passes passes over a
canvas of as many tokens and a tenth more, with the speech in a cache. A fractional number of passes (the mean that a
trained model was measured to need) is a mix of its two neighbours. Printed as JSON: medians in seconds, decoder alone
and with the encoder (and, for denoising, the prior's linear layer), and the peak of the GPU's memory.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable

from asr.console.program import program
from recipes.evaluation.side_by_side import make_parser, median_seconds

WHISPER = {
    "model_type": "whisper", "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120, "num_mel_bins": 128, "max_source_positions": 1500,
}  # fmt: skip
LLADA = {
    "model_type": "llama", "vocab_size": 126464, "hidden_size": 4096, "intermediate_size": 12288,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
}  # fmt: skip
TINY_WHISPER = WHISPER | {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
TINY_LLADA = LLADA | {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip
FRAMES_PER_SECOND = 50  # of Whisper's encoder
PROMPT = 24  # positions of a chat template and an instruction
SLACK = 1.1  # canvas positions per token


def make(kind: str, tiny: bool, device: str):
    """The whole recogniser with random weights, as a decoder of the given kind."""
    import torch

    from asr.pretrained.config import LanguagePart, LargeASRConfig, Part
    from asr.pretrained.model import LargeASR
    from recipes.tasks.large import load_units

    config = LargeASRConfig(
        Part(config=TINY_WHISPER if tiny else WHISPER),
        LanguagePart(config=TINY_LLADA if tiny else LLADA, kind=kind),
    )
    torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)
    try:
        with torch.device(device):
            return LargeASR.create(config, load_units(None)).eval()
    finally:
        torch.set_default_dtype(torch.float32)


class Side:
    """What both sides do: encode, project, put the prompt around the speech."""

    def __init__(self, model, batch: int, seconds: float, tokens: int):
        import torch

        self.model, self.batch, self.tokens = model, batch, tokens
        self.device, dtype = model.ctc.weight.device, model.ctc.weight.dtype
        mels = model.encoder.network.config.num_mel_bins
        self.features = torch.randn(batch, mels, 3000, device=self.device, dtype=dtype)
        self.frames = round(seconds * FRAMES_PER_SECOND)
        self.encoded = self.encode()

    def encode(self):
        return self.model.encoder.network(self.features).last_hidden_state[:, : self.frames]

    def prefix(self, encoded):
        import torch
        import torch.nn.functional as F

        lengths = torch.full((self.batch,), self.frames, device=self.device)
        speech, _ = self.model.projector(encoded, lengths)
        embeddings = F.pad(speech, (0, 0, PROMPT, 0))
        return embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool, device=self.device)


class Denoising(Side):
    """Passes over the canvas with the speech in a cache; the prior's linear layer belongs to the encoder's time."""

    passes = 1

    def decode(self, encoded) -> None:
        import torch

        prefix = self.model.language_model.remember(*self.prefix(encoded))
        width = math.ceil(SLACK * self.tokens)
        canvas = torch.zeros(self.batch, width, dtype=torch.long, device=self.device)
        for _ in range(self.passes):
            logits = self.model.denoise(canvas, prefix)
            canvas = torch.where(torch.rand_like(canvas, dtype=torch.float) < 0.5, logits.argmax(-1), canvas)

    def whole(self) -> None:
        encoded = self.encode()
        self.model.ctc_log_probabilities(encoded).argmax(-1).cpu()
        self.decode(encoded)


class Autoregressive(Side):
    """One token after the other with a cache of keys and values."""

    def decode(self, encoded) -> None:
        prefix = self.model.language_model.remember(*self.prefix(encoded))
        self.model.language_model.network.generate(
            inputs_embeds=prefix.embeddings,
            attention_mask=prefix.valid.long(),
            min_new_tokens=self.tokens,
            max_new_tokens=self.tokens,
            do_sample=False,
            pad_token_id=0,
        )

    def whole(self) -> None:
        self.decode(self.encode())


def waited(run: Callable[[], None], device: str) -> Callable[[], None]:
    """The call, until the GPU has done what it started."""

    def call() -> None:
        import torch

        run()
        if device != "cpu":
            torch.cuda.synchronize()

    return call


def measure(side: Side, repeats: int, device: str) -> dict[str, float]:
    """Median seconds of the decoder alone and of everything."""
    return {
        "decoder": median_seconds(waited(lambda: side.decode(side.encoded), device), repeats),
        "whole": median_seconds(waited(side.whole, device), repeats),
    }


def mixed(side: Denoising, passes: float, repeats: int, device: str) -> dict[str, float]:
    """Times at a fractional number of passes, between its neighbours."""
    low = math.floor(passes)
    parts = []
    for side.passes in sorted({max(1, low), math.ceil(passes)}):
        parts.append(measure(side, repeats, device))
    share = passes - low
    return {key: (1 - share) * parts[0][key] + share * parts[-1][key] for key in parts[0]}


def run(args: argparse.Namespace, device: str) -> list[dict]:
    """A row for each batch size."""
    import torch

    rows = [{"batch": batch} for batch in args.batch]
    for kind, make_side in (("causal", Autoregressive), ("decoder", Denoising)):
        name = "autoregressive" if kind == "causal" else "denoising"
        model = make(kind, args.tiny, device)
        for row in rows:
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            with torch.inference_mode():
                side = make_side(model, row["batch"], args.seconds, args.tokens)
                timed = (
                    mixed(side, args.passes, args.repeats, device)
                    if kind == "decoder"
                    else measure(side, args.repeats, device)
                )
            row[name] = {**timed, "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else None}
        del model, side
        if device != "cpu":
            torch.cuda.empty_cache()
    for row in rows:
        row["ratio"] = {part: row["autoregressive"][part] / row["denoising"][part] for part in ("decoder", "whole")}
    return rows


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("large_shapes", __doc__)
    parser.add_argument("--passes", type=float, default=3.0, help="mean number of denoising passes")
    parser.add_argument("--tokens", type=int, default=40, help="of the text (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of speech (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="toy sizes on a CPU, to try the program")
    args = parser.parse_args(argv)
    import torch

    if not args.tiny and not torch.cuda.is_available():
        print("large_shapes: 17 GB of weights in bfloat16 need a CUDA GPU; --tiny tries the program", file=sys.stderr)
        return 2
    device = "cpu" if args.tiny else "cuda"
    settings = {key: getattr(args, key) for key in ("passes", "tokens", "seconds", "repeats", "tiny")}
    machine = "cpu" if args.tiny else torch.cuda.get_device_name()
    print(json.dumps({"machine": machine, **settings, "rows": run(args, device)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
