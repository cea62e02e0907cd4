"""The size of an experiment on paper: its model on the meta device, without weights, data or network.

    python -m recipes.train experiment=dllm_asr_llada8b --dry_run

Prints the parameters of each part, how many are trained, and what weights, gradients, optimiser and moving average
take in the memory of one process. All numbers are computed; activations, which depend on the batch, are left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from recipes.training.build import build, compose

BYTES = {"float32": 4.0, "bfloat16": 2.0, "8bit": 1.0, "4bit": 0.5 + 4 / 64}  # 4 bit: a float32 scale every 64 weights
GIGA = 1e9
KEPT_TOKENS = 16_384  # of Whisper's, in a hybrid recogniser: about so many, only a corpus can tell


@dataclass
class PartSize:
    """Parameters of a part of the model and bytes of each one's weight."""

    name: str
    parameters: int
    trained: int
    bytes_each: float = 4.0


def units_of(tokenizer: str | None) -> str:
    """JSON definition of a vocabulary; while its file is not there, of one with as many units as its name says."""
    from asr.text.tokenizer import Tokenizer
    from recipes.tasks.large import load_units

    if tokenizer is None or Path(tokenizer).exists():
        return load_units(tokenizer).definition
    size = int(re.search(r"(\d+)", Path(tokenizer).name)[1])
    pieces = [f"{a}{b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnopqrstuvwxyz'"]
    words = [f"{first}{second}" for first in pieces for second in pieces[:: max(1, 27 * 26 // 64)]]
    return Tokenizer.train([" ".join(words)], size).definition


def ctc(task: DictConfig) -> nn.Module:
    from asr.ctc.model import CTCModel
    from asr.text.tokenizer import Tokenizer

    return CTCModel.create(build(task.encoder), Tokenizer(units_of(task.get("tokenizer"))))


def finetuned(task: DictConfig) -> nn.Module:
    """The Conformer that the run goes on with."""
    from asr.ctc.model import CTCModel
    from asr.text.tokenizer import Tokenizer

    return CTCModel.create(conformer_sizes(task.recogniser), Tokenizer(units_of("units256.json")))


def conformer_sizes(folder: str):
    """Sizes of the encoder of a Conformer; while its folder is not there, of the one that `ctc_compact` trains."""
    from asr.ctc.encoder import EncoderConfig

    config = Path(folder) / "config.json"
    if not config.is_file():
        return build(compose(["experiment=ctc_compact"]).task.encoder)
    found = json.loads(config.read_text(encoding="utf-8"))["encoder"]
    return EncoderConfig(**{**found, "layers": tuple(found["layers"])})


def denoiser(task: DictConfig) -> nn.Module:
    """The decoder alone: the encoder of the recogniser is not part of what is trained."""
    from asr.dllm.network import Denoiser

    return Denoiser.create(build(task.decoder))


def enhancer(task: DictConfig) -> nn.Module:
    from recipes.tasks.enhance import create

    return create(build(task.model))


def correction(task: DictConfig) -> nn.Module:
    from dlm.model import DenoisingLM

    units = task.get("units", "characters")
    return DenoisingLM.create(build(task.model), units if units == "characters" else units_of(units))


def writing(task: DictConfig) -> nn.Module:
    """The writing model with the sizes of its configuration, which are those of the BERT it starts from."""
    from dlm.writing import WritingModel

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, *(f"unit{number}" for number in range(task.start.pieces - len(special)))]
    return _frozen(WritingModel(build(task.start.sizes), "\n".join(pieces)), task)


def large(task: DictConfig) -> nn.Module:
    from asr.pretrained.model import LargeASR

    return LargeASR(build(task.model).without_weights().plain(), units_of(task.get("tokenizer")))


def hybrid(task: DictConfig) -> nn.Module:
    """The hybrid recogniser, with the sizes of the Whisper or the hybrid folder that it starts from."""
    return _frozen(_hybrid(task.start.name, units_of(task.start.units), build(task.start.branch)), task)


def slot_denoiser(task: DictConfig) -> nn.Module:
    """The hybrid recogniser with slot layers on its decoder, which alone are trained."""
    from asr.hybrid.branch import BranchSizes
    from recipes.tasks.slot_denoiser import freeze_below_slots

    model = _hybrid(task.recogniser, units_of("units512.json"), BranchSizes()).with_slots(build(task.slots))
    freeze_below_slots(model)
    return model


def _hybrid(name: str, units: str, branch) -> nn.Module:
    """A hybrid recogniser of the sizes of another or of a Whisper."""
    from asr.hybrid.decoder import DecoderSizes
    from asr.hybrid.encoder import EncoderSizes
    from asr.hybrid.model import HybridModel
    from asr.text.tokenizer import Tokenizer

    width, heads, layers = whisper_sizes(name)
    same = {"width": width, "heads": heads, "layers": layers, "feed_forward": 4 * width}
    vocabulary = Tokenizer(units)
    branch.units = len(vocabulary)
    return HybridModel.create(EncoderSizes(**same), branch, DecoderSizes(KEPT_TOKENS, **same), vocabulary, vocabulary)


def _frozen(model: nn.Module, task: DictConfig) -> nn.Module:
    """The model without gradients in the parts that the task freezes."""
    for part in task.get("frozen") or []:
        model.get_submodule(part).requires_grad_(False)
    return model


def whisper_sizes(name: str) -> tuple[int, int, int]:
    """Width, heads and layers of a Whisper or of a hybrid folder.

    Raises:
        ValueError: neither its folder nor its name says them.
    """
    known = {"tiny": (384, 6, 4), "base": (512, 8, 6), "small": (768, 12, 12)}
    config = Path(name) / "config.json"
    if config.is_file():
        found = json.loads(config.read_text(encoding="utf-8"))
        if "branch" in found:
            return tuple(found["encoder"][key] for key in ("width", "heads", "layers"))
        return found["d_model"], found["encoder_attention_heads"], found["encoder_layers"]
    size = re.search(r"whisper-(\w+)", name)
    if size is None or size[1] not in known:
        raise ValueError(f"{name}: the dry run knows whisper-{', whisper-'.join(known)} and folders")
    return known[size[1]]


def l3se(stage: str, model: DictConfig) -> nn.Module:
    """A stage of L3-SE; `model` is the group that has the sizes of all stages."""
    from enhance.l3se.codec import WavCodec
    from enhance.l3se.encoder import NIEncoder
    from enhance.l3se.language_model import TokenLM
    from enhance.l3se.semantic import WavS2T

    backbone = l3se_backbone(model.backbone)
    with torch.device("cpu"):  # its quantiser counts its codes as it is made
        own = WavCodec(widths=list(backbone.widths), hop=backbone.hop, width=backbone.width, **build(model.codec))
    if stage == "CodecTask":
        return own.to("meta")
    if stage == "SemanticTask":
        return WavS2T(list(backbone.widths), backbone.width, units_of(None))
    student = NIEncoder(backbone.spec, ["acoustic", "semantic"])
    if stage == "EncoderTask":
        return student
    return TokenLM(student.condition_width, own.repeat, own.groups, own.codes, **build(model.language_model))


def l3se_backbone(node: DictConfig) -> nn.Module:
    """The backbone a configuration names: of a folder as it is, without the weights where it is not there."""
    from asr.loading import shipped
    from enhance.l3se.backbone import WavLMBackbone, pretrained_backbone

    if Path(shipped(node.name)).is_dir():
        with torch.device("cpu"):
            return pretrained_backbone(node.name).to("meta")
    wavlm_large = {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "feat_extract_norm": "layer", "do_stable_layer_norm": True,
    }  # fmt: skip
    if node.name != "microsoft/wavlm-large":
        raise ValueError(f"{node.name}: the dry run knows the sizes of microsoft/wavlm-large only")
    return WavLMBackbone(wavlm_large)


MODELS = {
    "CTCTask": ctc,
    "toy_task": ctc,
    "finetune": finetuned,
    "DenoiserTask": denoiser,
    "TwinTask": denoiser,
    "EnhanceTask": enhancer,
    "HybridTask": hybrid,
    "SlotDenoiserTask": slot_denoiser,
    "CorrectionTask": correction,
    "WritingTask": writing,
    "LargeDenoiserTask": large,
    "LargeTwinTask": large,
}


def skeleton(config: DictConfig) -> nn.Module:
    """The model of a composed experiment, on the meta device.

    Raises:
        ValueError: the task is not known here, or a part does not say its sizes.
    """
    kind = config.task._target_.rsplit(".", 1)[-1]
    with torch.device("meta"):
        if ".l3se." in config.task._target_:
            return l3se(kind, config.model)
        if kind not in MODELS:
            raise ValueError(f"{config.task._target_}: the dry run knows {', '.join(MODELS)}")
        return MODELS[kind](config.task)


def sizes(config: DictConfig) -> list[PartSize]:
    """The parts of an experiment's model."""
    model = skeleton(config)
    precision = {part: config.task.model[part].get("precision", "float32") for part in ("encoder", "language_model")} \
        if "Large" in config.task._target_ else {}  # fmt: skip
    parts, loose = [], [p for p in model.parameters(recurse=False)]
    for name, module in model.named_children():
        parameters = list(module.parameters())
        if parameters:
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            each = BYTES[precision.get(name, "float32")]
            parts.append(PartSize(name, sum(p.numel() for p in parameters), trained, each))
    if loose:
        count = sum(p.numel() for p in loose)
        parts.append(PartSize("(loose)", count, count))
    return parts


def memory(parts: list[PartSize], average: float) -> dict[str, float]:
    """Bytes that one process holds: float32 gradients and two float32 moments for what is trained."""
    trained = sum(p.trained for p in parts)
    frozen = sum((p.parameters - p.trained) * p.bytes_each for p in parts)
    return {
        "weights": frozen + 4.0 * trained,
        "gradients": 4.0 * trained,
        "optimiser": 8.0 * trained,
        "average": 4.0 * sum(p.parameters for p in parts) if average else 0.0,
    }


def report(config: DictConfig) -> str:
    """What `--dry_run` prints."""
    parts = sizes(config)
    needed = memory(parts, config.trainer.average)
    total, trained = sum(p.parameters for p in parts), sum(p.trained for p in parts)
    rows = [(p.name, p.parameters, p.trained) for p in parts] + [("total", total, trained)]
    lines = [f"{config.name} (computed, nothing was loaded)", f"{'part':<20}{'parameters':>18}{'trained':>18}"]
    lines += [f"{name:<20}{count:>18,}{own:>18,}" for name, count, own in rows]
    summed = " + ".join(f"{name} {size / GIGA:.2f}" for name, size in needed.items() if size)
    lines.append(
        f"memory of one process without activations: {sum(needed.values()) / GIGA:.2f} GB = {summed}; "
        f"training precision {config.trainer.precision}"
    )
    return "\n".join(lines)
