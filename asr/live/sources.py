"""Where live sound comes from: raw samples on standard input, or a microphone."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator

import numpy as np

from asr.audio.errors import AudioError
from asr.audio.io import SAMPLING_RATE
from asr.live.pcm import PCMStream

BLOCK = 0.1  # seconds


def raw_blocks(file, rate: int, channels: int, sample_format: str = "s16le") -> Iterator[np.ndarray]:
    """Blocks [samples] at 16 kHz of interleaved raw samples.

    Args:
        file: binary file; what has come is handed on, however little, so that nothing waits for a full block.
        rate: its sampling rate in Hz.
        channels: its channels, which are averaged.
        sample_format: a key of `asr.live.pcm.FORMATS`.
    """
    stream = PCMStream(rate, channels, sample_format)
    most = max(1, int(BLOCK * rate)) * channels * stream.dtype.itemsize
    while data := (file.read1(most) if hasattr(file, "read1") else file.read(most)):
        block = stream.push(data)
        if len(block):
            yield block
    rest = stream.push(b"", is_last=True)  # what the resampling filter still holds
    if len(rest):
        yield rest


def microphone_blocks(device: str | int | None = None) -> Iterator[np.ndarray]:
    """Blocks [samples] at 16 kHz from a microphone, until interrupted.

    Raises:
        AudioError: `sounddevice` or the PortAudio library is not installed, or there is no such device.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise AudioError(
            f"microphone: {error}; install it with pip install 'denoising-speech[live]' (and PortAudio), or pipe raw "
            "samples in: arecord -t raw -f S16_LE -r 16000 | python -m asr.live -"
        ) from error
    waiting: queue.Queue[np.ndarray] = queue.Queue()
    try:
        stream = sounddevice.InputStream(
            SAMPLING_RATE, int(BLOCK * SAMPLING_RATE), device, channels=1, dtype="float32",
            callback=lambda samples, *_: waiting.put(samples[:, 0].copy()),
        )  # fmt: skip
    except (sounddevice.PortAudioError, ValueError) as error:
        raise AudioError(f"microphone: {error}") from error
    with stream:
        while True:
            blocks = [waiting.get()]
            while not waiting.empty():  # what came while the last block was recognised, at once
                blocks.append(waiting.get())
            yield np.concatenate(blocks)


def paced(blocks: Iterator[np.ndarray], clock=time.monotonic, sleep=time.sleep) -> Iterator[np.ndarray]:
    """The same blocks, each handed on when its last sample would have been spoken; those overdue come together."""
    start, samples, late = clock(), 0, []
    for block in blocks:
        samples += len(block)
        late.append(block)
        ahead = samples / SAMPLING_RATE - (clock() - start)
        if ahead > 0:
            sleep(ahead)
            yield np.concatenate(late)
            late = []
    if late:
        yield np.concatenate(late)
