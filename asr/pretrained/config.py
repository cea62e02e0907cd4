"""What a large recogniser is made of (dLLM-ASR, arXiv 2601.17902): encoder -> projector -> language model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

PRECISIONS = ("float32", "bfloat16", "8bit", "4bit")
KINDS = ("masked", "decoder", "block", "causal")
PROJECTORS = ("conv", "mlp", "qformer")
LORA_STARTS = ("default", "rslora", "dora", "pissa", "eva")


@dataclass
class Part:
    """A pretrained model of transformers.

    Args:
        name: folder or Hub id of its weights; None builds it from `config` with random weights.
        config: its configuration with `model_type` and sizes; needed where the weights are not there, as in
            `recipes.train --dry_run`.
        trust_remote_code: run code that comes with the weights.
        revision: commit of the Hub repository; pin one where remote code is run.
        precision: of the weights; "8bit" and "4bit" need bitsandbytes and a GPU.
        train: adapt the weights themselves; False leaves them as they are.
    """

    name: str | None = None
    config: dict | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    precision: str = "float32"
    train: bool = False

    def __post_init__(self):
        if self.name is None and not self.config:
            raise ValueError("a part needs a name (folder or Hub id) or a config with model_type and sizes")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        if self.train and self.precision in ("8bit", "4bit"):
            raise ValueError(f"precision {self.precision} cannot be trained: set train to false and use lora")


@dataclass
class LanguagePart(Part):
    """The language model that writes the text.

    Args:
        kind: how it is run. "masked": whole sequence in every pass, no cache (BERT, ModernBERT, LLaDA, Dream and
            LLaDA2 by remote code). "decoder": decoder layers of transformers under a bidirectional mask of ours, with
            a cache of the speech prefix (LLaDA and Dream read into the Llama and Qwen2 classes, EuroBERT, any
            Llama-like model to be made a denoiser). "block": DiffusionGemma. "causal": the autoregressive baseline.
        prefix_sees_canvas: let prompt and speech attend to the canvas, as models with full attention were
            pretrained. The cache of the prefix is then an approximation; without, it is exact. Only for "decoder";
            "masked" always does, "block" never.
        shifted: the model says at position i what stands at i + 1 (Dream).
        mask_token, end_token: tokens of the canvas; None takes the tokenizer's own.
        null_token: an unused token that shall stand for an empty slot of the canvas; None: no slots.
        gradient_checkpointing: recompute activations in the backward pass, for memory.
    """

    kind: str = "masked"
    prefix_sees_canvas: bool = False
    shifted: bool = False
    mask_token: str | None = None
    end_token: str | None = None
    null_token: str | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; choose one of {', '.join(KINDS)}")
        if self.kind == "block" and self.gradient_checkpointing:
            raise ValueError("gradient_checkpointing drops the prefix that a block model reads: set it to false")


@dataclass
class LoRA:
    """Low-rank adaptation of the language model (Hu et al. 2021), by peft.

    Args:
        targets: names of the linear layers that are adapted.
        start: "default" (B is zero); "rslora" scales by alpha / sqrt(rank) (Kalajdzievski 2023); "dora" adapts
            direction and magnitude (Liu et al. 2024); "pissa" starts from the principal singular vectors of the
            weights (Meng et al. 2024); "eva" from those of the activations on the first batches (Paischer et al. 2024).
    """

    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    dropout: float = 0.0
    start: str = "default"

    def __post_init__(self):
        self.targets = tuple(self.targets)
        if self.start not in LORA_STARTS:
            raise ValueError(f"start of LoRA is {self.start!r}; choose one of {', '.join(LORA_STARTS)}")


@dataclass
class ProjectorConfig:
    """From encoder frames to positions of the language model.

    Args:
        kind: "conv": convolutions of kernel 3 and stride 2, then a linear layer; "mlp": frames stacked, then two
            linear layers; "qformer": queries attend to windows of frames (SALMONN, Tang et al. 2023).
        factor: encoder frames per position; a power of two for "conv".
        window: frames in a window of "qformer"; a multiple of the factor.
    """

    kind: str = "conv"
    factor: int = 4
    window: int = 16

    def __post_init__(self):
        if self.kind not in PROJECTORS:
            raise ValueError(f"projector is {self.kind!r}; choose one of {', '.join(PROJECTORS)}")
        if self.kind == "conv" and (self.factor < 2 or self.factor & (self.factor - 1)):
            raise ValueError(f"factor is {self.factor}; a conv projector needs a power of two of at least 2")
        if self.kind == "qformer" and self.window % self.factor:
            raise ValueError(f"window {self.window} is no multiple of factor {self.factor}")


@dataclass
class LargeASRConfig:
    """The parts of a large recogniser, and what it is told before the speech."""

    encoder: Part
    language_model: LanguagePart
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    lora: LoRA | None = None
    instruction: str = "Transcribe the speech."

    @classmethod
    def of(cls, settings: dict) -> LargeASRConfig:
        """From plain values, as `config.json` holds them."""
        kinds = {"encoder": Part, "language_model": LanguagePart, "projector": ProjectorConfig, "lora": LoRA}
        return cls(**{key: kinds[key](**v) if key in kinds and v is not None else v for key, v in settings.items()})

    def plain(self) -> dict:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    def without_weights(self) -> LargeASRConfig:
        """The same shapes with random weights; nothing is read.

        Raises:
            ValueError: a part says no sizes.
        """
        for part in (self.encoder, self.language_model):
            if not part.config:
                raise ValueError(f"{part.name}: give its config (model_type and sizes) to build it without its weights")
        plain = {"name": None, "precision": "float32"}  # no weights, nothing to quantise
        lora = self.lora and dataclasses.replace(self.lora, start="default")
        return dataclasses.replace(
            self,
            encoder=dataclasses.replace(self.encoder, **plain),
            language_model=dataclasses.replace(self.language_model, **plain, gradient_checkpointing=False),
            lora=lora,
        )
