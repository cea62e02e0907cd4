"""Recordings for the tests of the audio front end, encoded on the spot."""

from __future__ import annotations

import io
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 16_000
# suffix -> container, codec and sampling rate of the encoder
FORMATS = {
    "wav": ("wav", "pcm_s16le", RATE), "flac": ("flac", "flac", RATE), "mp3": ("mp3", "libmp3lame", RATE),
    "opus": ("ogg", "libopus", 48_000), "m4a": ("mp4", "aac", RATE),
    "webm": ("webm", "libopus", 48_000), "mkv": ("matroska", "aac", RATE), "ts": ("mpegts", "aac", RATE),
    "aac": ("adts", "aac", RATE), "wma": ("asf", "wmav2", 44_100), "wv": ("wv", "wavpack", RATE),
    "tta": ("tta", "tta", RATE), "aiff": ("aiff", "pcm_s16be", RATE), "caf": ("caf", "pcm_s16le", RATE),
    "3gp": ("3gp", "aac", RATE), "flv": ("flv", "aac", RATE), "mts": ("mpegts", "aac", RATE),
    "avi": ("avi", "libmp3lame", RATE), "mka": ("matroska", "libmp3lame", RATE), "mp4": ("mp4", "libopus", 48_000),
    "oga": ("ogg", "flac", RATE), "mpg": ("mpeg", "mp2", RATE),
    "mp2": ("mp2", "mp2", RATE), "ac3": ("ac3", "ac3", 2 * RATE),
}
OPTIONS = {"mts": {"max_delay": "700000"}}  # several packets are sent together, as by the program of FFmpeg
LAYOUTS = {1: "mono", 2: "stereo", 8: "7.1"}


def scale(seconds: int) -> np.ndarray:
    """A tone a second, each higher than the last: what is heard tells the time."""
    time = np.arange(seconds * RATE) / RATE
    wave = 0.3 * np.sin(2 * np.pi * pitch(np.floor(time)) * time)
    return (wave + 0.001 * np.random.default_rng(0).standard_normal(len(wave))).astype(np.float32)


def pitch(second):
    """Of a second of `scale`, in Hz."""
    return 300 + 150 * second


def misplaced(wave: np.ndarray, window: float = 0.25) -> tuple[int, float]:
    """How many windows of a decoded `scale` [samples] hold a clear tone, and by how many seconds the worst is off."""
    length, count, worst = round(window * RATE), 0, 0.0
    for start in range(0, len(wave) - length + 1, length):
        spectrum = np.abs(np.fft.rfft(wave[start : start + length] * np.hanning(length))) ** 2
        top = int(spectrum.argmax())
        is_clear = spectrum[max(0, top - 4) : top + 5].sum() > 0.9 * spectrum.sum() and spectrum.sum() > 1
        second = (top / window - 300) / 150
        if is_clear and abs(second - round(second)) < 0.05:
            early, late = round(second) - start / RATE, start / RATE + window - round(second) - 1
            count, worst = count + 1, max(worst, early, late)
    return count, worst


def encoded(wave: np.ndarray, suffix: str, times: tuple[float, ...] = (0.0,), **options: str) -> bytes:
    """The wave [samples] at 16 kHz as a file, once at each of the given times, with nothing in between."""
    if suffix == "ogg":  # Vorbis, for which PyAV brings no good encoder
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, RATE, format="OGG", subtype="VORBIS")
        return buffer.getvalue()
    return muxed([(wave, times)], suffix, **options)


def muxed(tracks: list[tuple[np.ndarray, tuple[float, ...]]], suffix: str, **options: str) -> bytes:
    """Several tracks as one file; a wave may be [samples] or [samples, 2 or 8]."""
    container, codec, rate = FORMATS[suffix]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made"
        with av.open(str(path), "w", format=container, options=OPTIONS.get(suffix, {}) | options) as output:
            streams = []
            for wave, times in tracks:
                stream = output.add_stream(codec, rate=rate)
                stream.layout = LAYOUTS[1 if wave.ndim == 1 else wave.shape[1]]
                stream.bit_rate = 64_000
                streams.append((stream, wave, times))
            for stream, wave, times in streams:
                _encode(output, stream, wave, times, rate)
        return path.read_bytes()


def _encode(output, stream, wave: np.ndarray, times: tuple[float, ...], rate: int) -> None:
    context = stream.codec_context
    for start in times:
        position = round(start * rate)
        samples = np.round(np.clip(wave, -1, 1) * 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=stream.layout.name)
        frame.sample_rate = RATE
        resampler = av.AudioResampler(context.format, stream.layout, rate, frame_size=context.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            piece.pts, piece.time_base = position, Fraction(1, rate)
            position += piece.samples
            output.mux(stream.encode(piece))
    output.mux(stream.encode(None))
