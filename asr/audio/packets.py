"""The packets of one container, decoded, with the signs of damage between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import av

from asr.audio.containers import (
    View,
    asf_seconds,
    ends_with_whole_page,
    ends_with_whole_ts_packet,
    id3_bytes,
    mp3_seconds,
    mpeg_frame_bytes,
    ogg_granules,
)

# Streams without times: the time of a packet is what was before it, so lost bytes would make all after them early.
UNTIMED = frozenset({"mp3", "aac", "ac3", "eac3", "dts", "loas", "amr", "gsm", "g722"})
# Containers whose header tells how long the sound is.
TELLING = frozenset({"flac", "wv", "tta", "ape", "aiff", "au", "caf", "mov", "matroska", "flv"})
# Containers whose times count from zero; others start anywhere.
ZERO_BASED = frozenset({"mov", "matroska"})
LATEST_START = 600.0  # seconds; later times are those of a longer stream that this was cut out of
GAPLESS = frozenset({"ogg", "flac", "wv", "tta", "ape", "asf"})  # a gap can only come of damage
SEQUENTIAL = frozenset({"matroska", "flv"})  # packets follow each other in the file
OVERHEAD = 1024  # bytes that may lie between two of them
CUT_ANYWHERE = UNTIMED | {"mpegts", "mpeg"}  # what is cut out of a longer stream starts with half a packet
LONGEST_PACKET = {"mp3float": 2881, "mp3": 2881, "mp2": 2881, "aac": 8191, "ac3": 3840, "eac3": 4096}  # bytes
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS", b"3DI")  # what may stand between or behind the packets of MP3
CHECKED = frozenset({"flac", "wavpack", "tta", "ape"})  # codecs with checksums that encoders get right
SUSPECT = 10  # frames
MANY_PLANES = 8
BLOCK_OVERLAP = 0.1  # seconds by which the blocks of Vorbis reach into each other, at most
RETRIES = 8  # after errors of a container
CLOSED = {"protocol_whitelist": "none"}  # a playlist or a reference must not open other files


@dataclass
class Decoded:
    """A frame of PyAV with its time in seconds of the container; `lost`: seconds to leave out before it."""

    frame: av.AudioFrame
    time: float | None
    damaged: bool = False
    lost: float = 0.0


class Part:
    """An open container and its chosen track.

    Attributes:
        tracks: a description of each audio track.
        number: of the chosen one, from 1.
        origin: the time stamp at which the recording starts.
        promised: seconds from there to the end that the header promises; None where it does not.
        share: of what the header promises is there.
        reached: where the packets of the other tracks end, in seconds after the origin.
        ends_damaged: whether the last packet is damaged or cut.

    Raises:
        av.FFmpegError, OSError: it cannot be opened.
        ValueError: it has no such track.
    """

    def __init__(self, view: View, track: int | None = None):
        self.view, self.share = view, view.share
        self.container = av.open(view, options=CLOSED, metadata_errors="replace")
        streams = self.container.streams.audio
        if not streams:
            others = "only video" if self.container.streams.video else "no audio track"
            raise ValueError(f"holds no sound ({others})")
        if track is not None and not 1 <= track <= len(streams):
            raise ValueError(f"has {len(streams)} audio tracks, so there is no track {track}")
        self.stream = streams[track - 1] if track else self.container.streams.best("audio")
        if self.stream.codec_context is None:
            raise ValueError("FFmpeg has no decoder for its sound")
        self.tracks = [_described(stream) for stream in streams]
        self.number = list(streams).index(self.stream) + 1
        self.codec = self.stream.codec_context.name
        self.channels = self.stream.codec_context.layout.nb_channels
        self.format = self.container.format.name.split(",")[0]
        self.timed = self.format not in UNTIMED and not (self.format == "wav" and self.codec.startswith("mp3"))
        if self.codec in CHECKED:
            self.stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        self.pages = self._ogg_pages() if self.format == "ogg" else None
        self.origin = self._origin()
        self.promised = self._promised()
        self.reached, self.ends_damaged, self.skipped = 0.0, False, False
        self.used, self.count = 0, 0  # bytes that became sound, packets

    def close(self) -> None:
        self.container.close()

    def frames(self) -> Iterator[Decoded]:
        """All frames that can be decoded."""
        frames = self._timed_frames() if self.timed else self._untimed_frames()
        yield from frames
        if self.view.patches:  # read to the end of the file, wherever that falls in a packet
            self.ends_damaged = False
        ends_whole = {"ogg": ends_with_whole_page, "mpegts": ends_with_whole_ts_packet}.get(self.format)
        if ends_whole and not ends_whole(self.view.again()):
            self.ends_damaged, self.promised = True, None  # nobody knows how much followed

    @property
    def is_complete(self) -> bool:
        """Whether every packet that the index names is there; a header may promise more than was recorded."""
        return self.format == "mov" and 0 < self.stream.frames <= self.count and not self.ends_damaged

    def _ogg_pages(self) -> tuple[float, float] | None:
        """When the first and the last page end, by the clock of the stream in seconds."""
        rate = 48_000 if self.codec == "opus" else self.stream.codec_context.sample_rate
        granules = ogg_granules(self.view.again())
        return granules and (granules[0] / rate, granules[1] / rate)

    def _origin(self) -> float:
        start = (self.container.start_time or 0) / av.time_base
        overlap = BLOCK_OVERLAP if self.codec == "vorbis" else 0.0
        if self.pages and self.pages[0] - overlap <= start < LATEST_START:
            return 0.0  # it starts late because its first page is damaged, not because it is part of a longer stream
        return 0.0 if self.format in ZERO_BASED and 0 <= start < LATEST_START else start

    def _promised(self) -> float | None:
        stream = self.stream
        if not self.timed:
            told = mp3_seconds(self.view.again()) if self.format == "mp3" else None
            # FFmpeg knows the samples that the encoder added, but guesses where a header does not fit the file.
            return told and min(told, float((stream.duration or 0) * stream.time_base) or told)
        if self.format == "ogg":
            return self.pages and self.pages[1] - self.origin
        if self.format == "asf":
            return asf_seconds(self.view.again())
        if self.format not in TELLING:
            return None
        if self.format in ("aiff", "caf") and self.codec.startswith("pcm") and stream.frames:
            return stream.frames / stream.codec_context.sample_rate
        if stream.duration:
            return float((stream.duration + (stream.start_time or 0)) * stream.time_base) - self.origin
        return self.container.duration / av.time_base if self.container.duration else None

    def _timed_frames(self) -> Iterator[Decoded]:
        suspicion = 0  # frames for which a gap is still put down to the last sign of damage
        for packet in self._packets():
            frames = self._decoded(packet)
            if packet.size:  # the last is empty and brings what the decoder still holds
                self.ends_damaged = packet.is_corrupt or frames is None
                if self.ends_damaged or self.skipped:
                    suspicion, self.skipped = SUSPECT, False
            for frame in frames or ():
                yield Decoded(frame, frame.time, suspicion > 0)
                suspicion = max(0, suspicion - 1)

    def _untimed_frames(self) -> Iterator[Decoded]:
        holes = None
        for frame, junk in self._with_junk():
            lost = 0.0
            if junk:
                holes = self._measured_holes() if holes is None else holes
                lost = next(holes, 0.0)
            yield Decoded(frame, None, bool(junk), lost)

    def _with_junk(self) -> Iterator[tuple[av.AudioFrame, int]]:
        """Frames, and how many bytes before each are none."""
        junk, longest, started = 0, LONGEST_PACKET.get(self.codec, 1 << 30), False
        for packet in self._packets():
            frames = self._decoded(packet)
            if packet.size:
                cut = packet.size < mpeg_frame_bytes(bytes(packet)[:4])
                self.ends_damaged = packet.is_corrupt or cut or frames is None and _has_sync(packet)
            waste = packet.size if frames is None else max(0, packet.size - longest)
            self.used += packet.size - waste
            junk += 0 if bytes(packet).startswith(TAGS) else waste
            for frame in frames or ():
                is_start = not started and junk < longest  # half a packet, not worth a word
                yield frame, 0 if is_start else junk
                junk, started = 0, True

    def _measured_holes(self) -> Iterator[float]:
        """Seconds lost in each hole: what is missing of the promised length, else what as many bytes hold elsewhere."""
        with closing(Part(self.view.again())) as again:
            again.stream = again.container.streams[self.stream.index]
            played, holes = 0.0, []
            for frame, junk in again._with_junk():
                played += frame.samples / frame.sample_rate
                holes += [junk] if junk else []
        lost = (self.view.size - id3_bytes(self.view.again()) - again.used) * played / max(1, again.used)
        if self.promised is not None and not again.ends_damaged:
            lost = self.promised - played
        return iter([max(0.0, lost) * junk / sum(holes) for junk in holes])

    def _decoded(self, packet: av.Packet) -> list[av.AudioFrame] | None:
        """The frames of a packet; None where the decoder refuses it, or finds a crowd of channels in noise."""
        try:
            frames = [frame for frame in packet.decode() if frame.samples]
        except av.FFmpegError:
            return None
        crowded = any(frame.layout.nb_channels >= max(MANY_PLANES, self.channels + 1) for frame in frames)
        return None if crowded else frames

    def _packets(self) -> Iterator[av.Packet]:
        """The packets of the track; notes where those of the others end, and bytes between packets."""
        demuxed, errors, end = self.container.demux(), 0, None
        while True:
            try:
                packet = next(demuxed, None)
            except (av.FFmpegError, OSError):  # the reader of the container, or the disk
                errors, self.skipped, self.ends_damaged = errors + 1, True, True
                if errors > RETRIES:
                    return
                demuxed = self.container.demux()
                continue
            except IndexError:  # PyAV at the end, when a track has appeared that was not there at the start
                return
            if packet is None:
                return
            if packet.pos is not None and self.format in SEQUENTIAL:
                self.skipped |= end is not None and packet.pos - end > OVERHEAD
                end = packet.pos + packet.size
            if packet.stream_index == self.stream.index:
                self.count += bool(packet.size)
                yield packet
            elif packet.pts is not None and packet.size:
                last = float((packet.pts + (packet.duration or 0)) * packet.time_base) - self.origin
                self.reached = max(self.reached, last)


def _has_sync(packet: av.Packet) -> bool:
    """Whether it begins as a packet of MPEG audio or AC-3 does, and is no tag or padding."""
    head = bytes(packet)[:2]
    return len(head) == 2 and (head[0] == 0xFF and head[1] >= 0xE0 or head == b"\x0b\x77")


def _described(stream) -> str:
    language = stream.metadata.get("language", "")
    title = stream.metadata.get("title", "")
    codec = stream.codec_context.name if stream.codec_context else "unknown"
    default = "default" if stream.disposition & av.stream.Disposition.default else ""
    return ", ".join(part for part in (language, title, codec, default) if part)
