"""`Denoiser`: any enhancer behind one call, for arrays and files of any rate, channel count and length.

The enhancer works at 16 kHz on each channel by itself. What a recording holds above 8 kHz the enhancer
cannot see; it is kept and follows the gain that the enhancer gives to the top of its band (6-8 kHz):

    output = up(enhanced) + gain * (input - up(down(input)))

The same term returns what the resampling filters cut off, so an enhancer that changes nothing returns the
recording as it was, at any rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from enhance.enhancer import Enhancer, architecture_of, load_enhancer
from enhance.streaming import FRAMES_PER_STEP, OverlapAdd

TOP_BAND = 0.75  # the gain for what the enhancer cannot see is measured over the top quarter of its band
FALLBACK_RATE = 48_000  # Hz, of formats that only ffmpeg reads
RESAMPLED_BLOCK = 1 << 17  # samples

Progress = Callable[[float], None]


class Denoiser:
    """Enhance recordings.

        denoiser = Denoiser.from_pretrained(None)
        clean = denoiser(noisy, sampling_rate=44_100)
        denoiser.denoise_file("noisy.wav", "clean.wav")

    Args:
        enhancer: a frame-by-frame enhancer.
        attenuation_limit: largest attenuation in dB; None for no limit.
        device: "cpu", "cuda" ...
    """

    streams = True  # can also run live

    def __init__(self, enhancer: Enhancer, attenuation_limit: float | None = None, device: str = "cpu"):
        self.core = OverlapAdd(enhancer.fold().to(device), attenuation_limit)

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, **options) -> Denoiser:
        """By architecture ("adaptcrn", "l3se"), folder or hub id; None is the compact AdaptCRN of the package."""
        if architecture_of(name) == "l3se":
            from enhance.l3se.denoiser import L3SEDenoiser
            from enhance.l3se.system import L3SE

            return L3SEDenoiser(L3SE.from_pretrained(name), **options)
        return cls(load_enhancer(name), **options)

    @property
    def sampling_rate(self) -> int:
        """At which the enhancer works, in Hz."""
        return self.core.enhancer.sampling_rate

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
        samples = _floating(np.asarray(audio))
        if samples.ndim not in (1, 2) or not samples.size:
            raise AudioError(
                f"array: shape {samples.shape}; pass [samples] or [channels, samples], not empty"
            )
        if sampling_rate is None:
            raise AudioError("array: its sampling rate is unknown; pass sampling_rate in Hz")
        blocks = np.atleast_2d(samples).T
        enhanced = np.concatenate(list(self.stream([blocks], sampling_rate)))
        return np.ascontiguousarray(enhanced.T).reshape(samples.shape)

    def denoise_file(self, source, target: str | Path, progress: Progress | None = None) -> None:
        """Enhance a file into another of the same rate, channel count and length, in constant memory.

        Args:
            source: path, "-" for standard input, bytes or a binary file (what only ffmpeg reads becomes mono
                at 48 kHz).
            target: path; its extension names the format. It appears only when the whole file is done.
            progress: called with the seconds of audio in each block that is done.

        Raises:
            asr.audio.AudioError: one line that starts with the name of the source.
        """
        import soundfile

        from asr.audio.io import atomic_path, source_name

        target = Path(target)
        with decoded(source) as (rate, blocks), atomic_path(target) as temporary:
            outputs = self.stream(blocks, rate, progress, source_name(source))
            first = next(outputs)
            options = {"format": target.suffix[1:].upper(), "samplerate": rate, "channels": first.shape[1]}
            with soundfile.SoundFile(temporary, "w", **options) as file:
                file.write(first)
                for block in outputs:
                    file.write(block)

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
        session = None
        for block in checked(blocks, sampling_rate, name):
            for start in range(0, len(block), RESAMPLED_BLOCK):
                piece = np.asarray(block[start : start + RESAMPLED_BLOCK], np.float32)
                session = session or _Session(self.core, sampling_rate, piece.shape[1])
                yield session.push(piece)
                if progress:
                    progress(len(piece) / sampling_rate)
        yield session.finish()


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
def decoded(source) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Sampling rate and blocks [samples, channels] of a path, "-", bytes or a binary file.

    What only ffmpeg reads comes mono at 48 kHz. Raises `asr.audio.AudioError` where it cannot be decoded.
    """
    from asr.audio.decode import decode
    from asr.audio.io import opened, source_name

    name = source_name(source)
    with opened(source, name) as file:
        yield decode(file, name, FALLBACK_RATE)


class _Session:
    """One recording on its way: resampled down, enhanced, resampled up, the upper band added."""

    def __init__(self, core: OverlapAdd, rate: int, channels: int):
        self.core, self.channels, self.state = core, channels, core.start(channels)
        self.down = _resampler(rate, core.enhancer.sampling_rate, channels)
        self.up = _resampler(core.enhancer.sampling_rate, rate, 3 * channels)
        empty = np.zeros((0, channels), np.float32)
        self.waiting = empty  # 16 kHz samples that do not fill a hop yet
        self.original = empty  # input samples whose output is not there yet
        self.ready = np.zeros((0, 3 * channels), np.float32)  # enhanced, plain and gain, at the input's rate
        self.lag = core.hop  # 16 kHz samples to drop at the start
        bandwidth = core.fft_size // 2 * min(1.0, rate / core.enhancer.sampling_rate)  # in bins
        self.top = slice(int(TOP_BAND * bandwidth), int(bandwidth) + 1)
        self.last_gain: Tensor | None = None

    def push(self, block: np.ndarray) -> np.ndarray:
        """Input [n, channels] -> the output that is ready [m, channels]."""
        self.original = np.concatenate([self.original, block])
        self._enhance(self.down(block))
        return self._output()

    def finish(self) -> np.ndarray:
        """The rest of the output."""
        low = self.down(np.zeros((0, self.channels), np.float32), last=True)
        fill = self.core.hop + -(len(self.waiting) + len(low)) % self.core.hop
        self._enhance(np.concatenate([low, np.zeros((fill, self.channels), np.float32)]))
        rest = self.up(np.zeros((0, 3 * self.channels), np.float32), last=True)
        self.ready = np.concatenate([self.ready, rest])
        missing = max(0, len(self.original) - len(self.ready))  # resampling rounds the length
        self.ready = np.pad(self.ready, ((0, missing), (0, 0)), "edge" if len(self.ready) else "constant")
        return self._output()

    def _enhance(self, low: np.ndarray) -> None:
        """Samples at 16 kHz [n, channels] -> `ready` grows by enhanced, plain and gain."""
        self.waiting = np.concatenate([self.waiting, low])
        step = FRAMES_PER_STEP * self.core.hop
        while len(self.waiting) >= self.core.hop:
            length = min(step, len(self.waiting) // self.core.hop * self.core.hop)
            block, self.waiting = np.split(self.waiting, [length])
            parts = self._step(torch.from_numpy(np.ascontiguousarray(block.T)).to(self.core.device))
            parts = parts[self.lag :] if self.lag < len(parts) else parts[:0]
            self.lag = max(0, self.lag - length)
            self.ready = np.concatenate([self.ready, self.up(parts)])

    @torch.inference_mode()
    def _step(self, block: Tensor) -> np.ndarray:
        """[channels, n * hop] -> [n * hop, 3 * channels], all three late by one hop."""
        history = self.state.history
        spectrum, self.state.history = self.core.analyse(block, history)
        enhanced, self.state.enhancer = self.core.enhance(spectrum, self.state.enhancer)
        output, self.state.tail = self.core.synthesise(enhanced, self.state.tail)
        plain = torch.cat([history, block], -1)[:, : block.shape[1]]
        gain = self._gain(spectrum, enhanced)
        return torch.cat([output, plain, gain]).T.contiguous().cpu().numpy()

    def _gain(self, spectrum: Tensor, enhanced: Tensor) -> Tensor:
        """Mean gain of the top band minus 1 [channels, n * hop], running linearly from frame to frame.

        Minus 1, since the resampler takes the recording to be surrounded by zeros.
        """
        energy, enhanced_energy = (s[:, :, self.top].square().sum((2, 3)) for s in (spectrum, enhanced))
        frames = ((enhanced_energy + 1e-12) / (energy + 1e-12)).sqrt().clamp(max=1.0)
        before = frames[:, :1] if self.last_gain is None else self.last_gain
        steps = torch.cat([before, frames], 1)
        self.last_gain = frames[:, -1:]
        ramp = torch.arange(self.core.hop, device=frames.device) / self.core.hop
        return (steps[:, :-1, None] * (1 - ramp) + steps[:, 1:, None] * ramp).flatten(1) - 1

    def _output(self) -> np.ndarray:
        count = min(len(self.ready), len(self.original))
        parts, self.ready = np.split(self.ready, [count])
        original, self.original = np.split(self.original, [count])
        enhanced, plain, gain = np.split(parts, 3, axis=1)
        return enhanced + (1 + gain) * (original - plain)


def _resampler(source: int, target: int, channels: int) -> Callable[..., np.ndarray]:
    """A function (block [n, channels], last=False) -> resampled block; its filter bridges the blocks."""
    if source == target:
        return lambda block, last=False: block
    import soxr

    stream = soxr.ResampleStream(source, target, channels, dtype="float32")
    return lambda block, last=False: stream.resample_chunk(np.ascontiguousarray(block), last).reshape(
        -1, channels
    )


def _floating(samples: np.ndarray) -> np.ndarray:
    """Integer samples to full scale 1; floating-point ones as float32."""
    if samples.dtype.kind in "iu":
        limits = np.iinfo(samples.dtype)
        middle = (int(limits.max) + int(limits.min) + 1) / 2  # unsigned samples rest at half their range
        return ((samples.astype(np.float64) - middle) / (limits.max - middle + 1)).astype(np.float32)
    return samples.astype(np.float32)
