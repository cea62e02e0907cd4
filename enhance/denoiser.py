"""`Denoiser`: any enhancer behind one call, for arrays and files of any rate, channel count and length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from enhance.engine import Engine, FrameByFrame, Progress
from enhance.loading import architecture_of, load_enhancer
from enhance.networks.enhancer import Enhancer
from enhance.streaming import floating

if TYPE_CHECKING:
    from asr.audio.decode import Reader
    from asr.audio.report import Report


def limit_of_share(share: float) -> float | None:
    """The attenuation limit in dB that leaves a share of the input in the output.

    For recognition a part of the noisy speech is worth having, since what enhancers leave out or make up harms more
    than the noise (Iwamoto et al., "How bad are artifacts?", Interspeech 2022, call it observation adding).

    Raises:
        ValueError: a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of the input is {share}; it must be from 0 (none) to 1 (nothing is enhanced)")
    return None if share == 0 else -20 * math.log10(share)


class Denoiser:
    """Enhance recordings.

        denoiser = Denoiser.from_pretrained(None)
        clean = denoiser(noisy, sampling_rate=44_100)
        denoiser.denoise_file("noisy.wav", "clean.wav")

    Args:
        enhancer: works frame by frame; or an engine, which brings limit and device of its own.
        attenuation_limit: largest attenuation in dB; None for no limit.
        device: "cpu", "cuda" ...
    """

    def __init__(self, enhancer: Enhancer | Engine, attenuation_limit: float | None = None, device: str = "cpu"):
        is_engine = isinstance(enhancer, Engine)
        self.engine = enhancer if is_engine else FrameByFrame(enhancer, attenuation_limit, device)

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, **options) -> Denoiser:
        """By architecture ("adaptcrn", "l3se"), folder or hub id; None is the compact AdaptCRN of the package."""
        if architecture_of(name) == "l3se":
            from enhance.l3se.engine import WholeRecordings
            from enhance.l3se.system import L3SE

            return cls(WholeRecordings(L3SE.from_pretrained(name), **options))
        return cls(load_enhancer(name), **options)

    @property
    def sampling_rate(self) -> int:
        """At which the enhancer works, in Hz."""
        return self.engine.sampling_rate

    @property
    def streams(self) -> bool:
        """Whether it can also run live, see `enhance.StreamingDenoiser`."""
        return self.engine.streams

    def __call__(
        self, audio: np.ndarray | Tensor | str | Path, sampling_rate: int | None = None
    ) -> np.ndarray:
        """Enhanced samples, float32 full scale 1, in the shape they came in.

        Args:
            audio: samples [samples] or [channels, samples], integers are scaled to full scale 1; or a path,
                which is read as mono.
            sampling_rate: of the samples in Hz; for a path the rate to read it at (16 kHz when None).

        Raises:
            asr.audio.AudioError: unreadable audio, NaN or infinite samples, an impossible shape or rate.
        """
        from asr.audio import AudioError, load

        if isinstance(audio, str | Path):
            sampling_rate = sampling_rate or self.sampling_rate
            audio = load(audio, sampling_rate)
        samples = floating(np.asarray(audio))
        if samples.ndim not in (1, 2) or not samples.size:
            raise AudioError(
                f"array: shape {samples.shape}; pass [samples] or [channels, samples], not empty"
            )
        if sampling_rate is None:
            raise AudioError("array: its sampling rate is unknown; pass sampling_rate in Hz")
        blocks = np.atleast_2d(samples).T
        enhanced = np.concatenate(list(self.stream([blocks], sampling_rate)))
        return np.ascontiguousarray(enhanced.T).reshape(samples.shape)

    def denoise_file(
        self, source, target: str | Path, progress: Progress | None = None, report: Report | None = None
    ) -> None:
        """Enhance a file into another of the same rate, channels, bit depth and length, in constant memory.

        Args:
            source: path, "-" for standard input, bytes or a binary file.
            target: path; its extension names the format. It appears only when the whole file is done.
            progress: called with the seconds of audio in each block that is done.
            report: gets what is missing and what is odd; None is a strict one, for which damage is an error.

        Raises:
            asr.audio.AudioError: one line that starts with the name of the source.
            OSError: the target cannot be written.
        """
        from asr.audio.io import source_name
        from enhance.writing import RecordingWriter, subtype_of

        with decoded(source, report) as reader:
            rate = reader.sound.sampling_rate
            outputs = self.stream(reader.blocks(), rate, progress, source_name(source))
            first = next(outputs)
            subtype, seconds = subtype_of(reader.sound), reader.sound.seconds
            with RecordingWriter(target, rate, first.shape[1], subtype, seconds) as writer:
                if writer.is_reduced and report:
                    report.remarks.append(f"{target} has 24 bits a sample, the most that its format has here")
                writer.write(first)
                for block in outputs:
                    writer.write(block)

    def stream(
        self,
        blocks: Iterable[np.ndarray],
        sampling_rate: int,
        progress: Progress | None = None,
        name: str = "array",
    ) -> Iterator[np.ndarray]:
        """Blocks [samples, channels] of one recording -> enhanced blocks, as many samples in total.

        `name` is how error messages call the recording.

        Raises:
            asr.audio.AudioError: NaN or infinite samples, no samples, an impossible rate.
        """
        yield from self.engine.stream(checked(blocks, sampling_rate, name), sampling_rate, progress)


def checked(blocks: Iterable[np.ndarray], sampling_rate: int, name: str) -> Iterator[np.ndarray]:
    """The blocks [samples, channels] of one recording as they are.

    Raises:
        asr.audio.AudioError: NaN or infinite samples, no samples, an impossible rate.
    """
    from asr.audio import AudioError
    from asr.audio.io import RATES

    if not RATES[0] <= sampling_rate <= RATES[1]:
        raise AudioError(f"{name}: sampling rate {sampling_rate} Hz is outside {RATES[0]}..{RATES[1]} Hz")
    samples = 0
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioError(f"{name}: NaN or infinite samples; the recording is damaged")
        samples += len(block)
        yield block
    if not samples:
        raise AudioError(f"{name}: holds no samples")


@contextmanager
def decoded(source, report: Report | None = None) -> Iterator[Reader]:
    """The reader of a path, "-", bytes or a binary file. Raises `asr.audio.AudioError` where it cannot be decoded."""
    from asr.audio.decode import Reader
    from asr.audio.io import opened, source_name
    from asr.audio.report import Report

    name = source_name(source)
    with opened(source, name) as file:
        yield Reader(file, name, report or Report(strict=True))
