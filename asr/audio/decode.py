"""Any recording as blocks on the timeline of its container, by the libraries of FFmpeg (PyAV).

Sound that is missing, because it was never there or because it cannot be decoded, is silence in the output, so all
that follows keeps its time. What was lost is told from what was never there by signs of damage: packets that the
decoder refuses or the container calls corrupt, and bytes that belong to no packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np

from asr.audio import ogg
from asr.audio.containers import parts
from asr.audio.depth import bits_of
from asr.audio.errors import AudioError
from asr.audio.packets import GAPLESS, Part
from asr.audio.report import Report, told
from asr.audio.samples import Conform
from asr.audio.timeline import ROUNDING, Frame, Timeline
from asr.audio.views import View

BLOCK_SECONDS = 4.0
TOLERANCE = 0.2  # seconds by which a header's length may differ from what there is
LATE = 60.0  # seconds behind the promised end from where on a time stamp is taken for damage
LONGEST_END = 86_400.0  # seconds; a header that promises more is damaged itself
WORTH_A_DOUBT = 0.3  # seconds; times that are better need no word
WORTH_A_REMARK = 1.0  # seconds of silence that nothing accounts for


@dataclass(frozen=True)
class Sound:
    """What the audio of a file is.

    Attributes:
        sampling_rate: in Hz.
        channels: how many.
        layout: their names, such as FL, FR, FC.
        codec: FFmpeg's name, such as "pcm_s24le", "flac" or "aac".
        sample_format: FFmpeg's name of what the codec decodes to, such as "s16", "s32" or "fltp".
        bits: of a sample.
        seconds: about how long it is; None where nobody knows.
    """

    sampling_rate: int
    channels: int
    layout: tuple[str, ...]
    codec: str
    sample_format: str
    bits: int
    seconds: float | None


class Reader:
    """A recording that is read once, from its start to its end.

    Args:
        file: open and seekable; what lies before its position is not looked at.
        name: how messages call it.
        report: gets what is missing and what is odd.
        track: number of the audio track, from 1; None is the one that the file calls its default.

    Raises:
        AudioError: nothing of it can be decoded.
    """

    def __init__(self, file: BinaryIO, name: str, report: Report, track: int | None = None):
        self.name, self.report, self.track = name, report, track
        try:
            self.parts = list(parts(file, self.report))
        except OSError as error:
            raise AudioError(f"{name}: cannot be read ({error.strerror})") from None
        with self._opened(self.parts[0]) as part:
            self._note_tracks(part)
            self.sound = _sound_of(part, name, sum(view.size for view in self.parts))

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks [samples, channels] of float32, full scale 1, a few seconds each.

        Raises:
            AudioError: the recording cannot be read on, or something is missing and the report is strict.
        """
        waiting, length = [], 0
        for piece in self._pieces():
            waiting.append(piece)
            length += len(piece)
            if length >= BLOCK_SECONDS * self.sound.sampling_rate:
                yield np.concatenate(waiting)
                waiting, length = [], 0
        if waiting:
            yield np.concatenate(waiting)

    def _pieces(self) -> Iterator[np.ndarray]:
        timeline = Timeline(self.sound.sampling_rate, self.sound.channels, self._on_gap)
        conform = Conform(self.sound.sampling_rate, self.sound.channels)
        for number, view in enumerate(self.parts):
            try:
                opened = self._opened(view)
            except AudioError:
                if number == 0:
                    raise
                self._lose(timeline.seconds, None)
                continue
            with opened as part:
                start, promised = timeline.seconds, part.promised
                self.gapless = part.format in GAPLESS or part.view.is_mended
                timeline.start_part(part.origin, None if promised is None else promised + LATE)
                for frame in part.frames():
                    if frame.lost:
                        self._remark_on_estimate(part)
                        yield from timeline.silence(frame.lost, True)
                    samples, time = conform(frame)
                    yield from timeline.place(Frame(samples, time, frame.damaged))
                yield from timeline.finish_part()
                if part.tail:
                    self._remark_on_estimate(part)
                    yield from timeline.silence(part.tail, True)
                self._check_end(part, start, timeline.seconds)

    def _opened(self, view: View):
        try:
            view.seek(0)
            try:
                return closing(Part(view, self.track))
            except (av.FFmpegError, OSError):
                if view.at(0, 4) != b"OggS":
                    raise
                return closing(Part(ogg.intact(view), self.track))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(f"{self.name}: {_refusal(view, error)}") from None

    def _on_gap(self, start: float, end: float, damaged: bool) -> None:
        if damaged or self.gapless:
            self._lose(start, end)
        elif start > 0 and end - start >= WORTH_A_REMARK:
            self.report.remarks.append(f"has no sound from {start:.2f} to {end:.2f} s; taken for silence")

    def _remark_on_estimate(self, part: Part) -> None:
        if part.doubt is None:
            doubt = "how much is missing is an estimate, and all after it may be early or late"
        elif part.doubt > WORTH_A_DOUBT:
            doubt = f"what lies between damaged places may be early or late by up to {part.doubt:.1f} s"
        else:
            return
        remark = f"its format keeps no times: {doubt}"
        if remark not in self.report.remarks:
            self.report.remarks.append(remark)

    def _check_end(self, part: Part, start: float, end: float) -> None:
        """Report what the container promises and is not there."""
        promised = None if part.promised is None else start + part.promised
        tolerance = ROUNDING if part.ends_damaged else TOLERANCE
        if part.share < 1:
            self._lose(end, start + (end - start) / part.share)
        elif part.is_complete:
            return
        elif promised is not None and max(end, start + part.reached) + tolerance < promised < end + LONGEST_END:
            self._lose(end, promised)
        elif part.ends_damaged and (promised is None or abs(end - promised) > TOLERANCE):
            self._lose(end, None)

    def _lose(self, start: float, end: float | None) -> None:
        self.report.lose(start, end)
        if self.report.strict:
            raise AudioError(f"{self.name}: {told(self.report.missing)}")

    def _note_tracks(self, part: Part) -> None:
        if len(part.tracks) > 1 and self.track is None:
            named = ", ".join(f"{number} ({text})" for number, text in enumerate(part.tracks, 1))
            self.report.remarks.append(f"has {len(part.tracks)} audio tracks: {named}; track {part.number} is taken")


def _sound_of(part: Part, name: str, size: int) -> Sound:
    """From the first frame: headers do not know what HE-AAC decodes to.

    Args:
        size: of all parts, in bytes.
    """
    first = next(part.frames(), None)
    if first is None:
        raise AudioError(f"{name}: holds no samples (zero length), or none that can be decoded")
    frame = first.frame
    layout = tuple(channel.name for channel in frame.layout.channels)
    bits = bits_of(part.codec, part.decoder.extradata or b"", part.first, frame.format.name)
    duration = part.container.duration
    seconds = duration / av.time_base * size / max(1, part.view.size) if duration else None
    return Sound(frame.sample_rate, frame.layout.nb_channels, layout, part.codec, frame.format.name, bits, seconds)


def _refusal(view: View, error: Exception) -> str:
    """Why nothing can be decoded, in words for the one who owns the file."""
    if isinstance(error, (ValueError, OSError)) and not isinstance(error, av.FFmpegError):
        return str(error)
    view.seek(0)
    head = view.read(64)
    if head[4:8] == b"ftyp":
        return "damaged or truncated: its index (moov) is missing, as when a recording was never finished"
    known = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"\x1a\x45\xdf\xa3", b"FORM", b".snd", b"RIFX", b"caff", b"wvpk")
    if head.startswith(known):
        return "damaged or truncated: cannot be decoded from its start on"
    return (
        "cannot be decoded as audio: no format that FFmpeg knows (raw samples need a header first: "
        "ffmpeg -f s16le -ar 16000 -ac 1 -i IN OUT.wav)"
    )
