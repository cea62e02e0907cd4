"""Decoded frames as float samples of one rate and channel count, and many channels as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import av
import numpy as np
import soxr

from asr.audio.errors import AudioError
from asr.audio.packets import MANY_PLANES, Decoded
from asr.audio.report import Report

CANCELLED = 0.01  # of the power of a channel: a mix below has its channels against each other
# The usual downmix: speech is in the centre, low-frequency effects hold none.
WEIGHTS = {"FC": 2**0.5, "LFE": 0.0, "LFE2": 0.0, "BL": 0.5**0.5, "BR": 0.5**0.5, "SL": 0.5**0.5, "SR": 0.5**0.5}


class Conform:
    """Frames to [samples, channels] of float32, full scale 1, although a stream may change its rate or channels."""

    def __init__(self, rate: int, channels: int):
        self.rate, self.channels = rate, channels
        self.resampler, self.resampled_rate = None, rate
        self.interleaver: av.AudioResampler | None = None

    def __call__(self, decoded: Decoded) -> tuple[np.ndarray, float | None]:
        """Samples and their time; None where resampling has moved them a little."""
        frame = decoded.frame
        if frame.format.is_planar and frame.layout.nb_channels >= MANY_PLANES:
            frame = self._interleaved(frame)
        samples = self._with_channels(as_float(frame))
        if frame.sample_rate == self.rate:
            return samples, decoded.time
        if frame.sample_rate != self.resampled_rate:
            self.resampled_rate = frame.sample_rate
            self.resampler = soxr.ResampleStream(frame.sample_rate, self.rate, self.channels, dtype="float32")
        return self.resampler.resample_chunk(np.ascontiguousarray(samples)), None

    def _interleaved(self, frame: av.AudioFrame) -> av.AudioFrame:
        """All channels in one plane: PyAV (18) reads memory that is not the frame's where there are many planes."""
        if self.interleaver is None:
            self.interleaver = av.AudioResampler(frame.format.packed, frame.layout, frame.sample_rate)
        return self.interleaver.resample(frame)[0]

    def _with_channels(self, samples: np.ndarray) -> np.ndarray:
        if samples.shape[1] == self.channels:
            return samples
        return np.repeat(samples.mean(axis=1, keepdims=True), self.channels, axis=1)


def as_float(frame) -> np.ndarray:
    """The samples [samples, channels] of an audio frame of PyAV as float32, full scale 1."""
    array = frame.to_ndarray()
    samples = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)


def to_mono(
    blocks: Iterable[np.ndarray], name: str, layout: Sequence[str] = (), channel: int | None = None,
    report: Report | None = None,
) -> Iterator[np.ndarray]:
    """Blocks [samples, channels] as blocks [samples].

    The mean of the channels (centre speaker louder, subwoofer left out), but where they cancel each other, as when
    one was wired the wrong way round, the loudest alone.

    Args:
        layout: names of the channels.
        channel: take this one, from 1.
        report: gets a remark where channels cancel each other.

    Raises:
        AudioError: there is no such channel.
    """
    weights = _weights(layout)
    remarked = False
    for block in blocks:
        if channel is not None:
            if not 1 <= channel <= block.shape[1]:
                raise AudioError(f"{name}: has {block.shape[1]} channels, so there is no channel {channel}")
            yield block[:, channel - 1]
            continue
        if block.shape[1] == 1:
            yield block[:, 0]
            continue
        mono = block.mean(axis=1) if weights is None else block @ weights
        power = np.square(block).mean(axis=0) * (1 if weights is None else weights > 0)
        if np.square(mono).mean() < CANCELLED * power.max():
            mono = block[:, power.argmax()]
            if report and not remarked:
                report.remarks.append("its channels cancel each other when mixed; the louder one is taken")
                remarked = True
        yield mono


def _weights(layout: Sequence[str]) -> np.ndarray | None:
    """Of each channel in the mix, where there is a centre speaker."""
    if "FC" not in layout or len(layout) < 3:
        return None
    weights = np.array([WEIGHTS.get(name, 1.0) for name in layout], np.float32)
    return weights / weights.sum()
