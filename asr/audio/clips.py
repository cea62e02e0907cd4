"""Only some stretches of a recording, as `--clip_timestamps` names them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from asr.audio.io import SAMPLING_RATE
from asr.audio.segment import Segmenter, SpeechSegment

Clip = tuple[float, float]  # start and end in seconds; the last one's end may be infinite


def parse_clips(text: str) -> list[Clip]:
    """Whisper's "start,end,start,end,..." in seconds; without its last end the last clip lasts to the end.

    Raises:
        ValueError: something that is no number, or a clip that ends before it starts or starts before its predecessor
            ends.
    """
    try:
        times = [float(part) for part in text.split(",")]
    except ValueError:
        times = [math.nan]
    ends = [*times, math.inf] if len(times) % 2 else times
    ordered = all(a < b for a, b in zip(ends[::2], ends[1::2], strict=True))
    ordered &= all(a <= b for a, b in zip(ends[1::2], ends[2::2], strict=False))
    if not ordered or ends[0] < 0 or any(map(math.isinf, ends[:-1])):
        raise ValueError(f"clip_timestamps {text!r}: give start,end,start,end ... in seconds, one after the other")
    return list(zip(ends[::2], ends[1::2], strict=True))


def clip_segments(segmenter: Segmenter, blocks: Iterable[np.ndarray], clips: list[Clip]) -> Iterator[SpeechSegment]:
    """Speech segments of the clips alone, with their times in the whole recording; reads it to its end.

    Args:
        segmenter: hears each clip as if it were a recording.
        blocks: the whole recording, [samples] at 16 kHz each.
        clips: in order and apart.
    """
    waiting = [tuple(end if math.isinf(end) else round(end * SAMPLING_RATE) for end in clip) for clip in clips]
    position, stream = 0, None

    def placed(segments: Iterable[SpeechSegment]) -> Iterator[SpeechSegment]:
        for segment in segments:
            yield replace(segment, start=segment.start + waiting[0][0] / SAMPLING_RATE)

    for block in blocks:
        after = position + len(block)
        while waiting and waiting[0][0] < after:
            first, last = (min(max(0, end - position), len(block)) for end in waiting[0])
            stream = stream or segmenter.start()
            yield from placed(stream.push(block[first:last]))
            if waiting[0][1] > after:
                break
            yield from placed(stream.finish())
            stream = None
            del waiting[0]
        position = after
    if stream:
        yield from placed(stream.finish())
