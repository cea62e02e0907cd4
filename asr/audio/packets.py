"""The packets of one container, decoded, with the signs of damage between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import av

from asr.audio import avi, ogg
from asr.audio.containers import (
    TAGS,
    asf_seconds,
    ends_with_whole_pes,
    ends_with_whole_ts_packet,
    is_whole_flv,
    is_whole_ts,
    mp3_seconds,
)
from asr.audio.framing import Hole, framing_of
from asr.audio.pyav import open_container
from asr.audio.views import View

# Streams without times: the time of a packet is what was before it, so lost bytes would make all after them early.
UNTIMED = frozenset({"mp3", "aac", "ac3", "eac3", "dts", "loas", "amr", "gsm", "g722"})
# Containers whose header tells how long the sound is.
TELLING = frozenset({"flac", "wv", "tta", "ape", "aiff", "au", "caf", "mov", "matroska", "flv"})
# Containers whose times count from zero; others start anywhere.
ZERO_BASED = frozenset({"mov", "matroska", "wv", "flac"})
LATEST_START = 600.0  # seconds; later times are those of a longer stream that this was cut out of
GAPLESS = frozenset({"ogg", "flac", "wv", "tta", "ape", "asf"})  # a gap can only come of damage
SEQUENTIAL = frozenset({"matroska", "flv"})  # packets follow each other in the file
OVERHEAD = 128  # bytes that may lie between two of them
CUT_ANYWHERE = UNTIMED | {"mpegts", "mpeg"}  # what is cut out of a longer stream starts with half a packet
CHECKED = frozenset({"flac", "wavpack", "tta", "ape", "ac3", "eac3"})  # codecs with checksums that encoders get right
SUSPECT = 10  # frames
MANY_PLANES = 8
BLOCK_OVERLAP = 0.1  # seconds by which the blocks of Vorbis reach into each other, at most
COUNTED = frozenset({"flac", "speex", "libspeex"})  # codecs whose pages in an Ogg FFmpeg only counts
ZEROS_PLAY = frozenset({"opus", "libopus"})  # codecs that take a hole filled with zeros for a sound
LONGEST_PAUSE = 3  # bytes of a packet that says no more than that nobody speaks
JITTER = 0.05  # seconds between packets of a transport stream that are nothing
LONGEST_GAP = 1 << 26  # bytes looked at between two of them
WALKED = {"mpegts": is_whole_ts, "flv": is_whole_flv}  # formats whose bytes between two packets can be checked
ENDS = {"ogg": ogg.ends_with_whole_page, "mpegts": ends_with_whole_ts_packet, "mpeg": ends_with_whole_pes}
LONGER = 1.5  # times as long as its header says; an index that ends later does not count as we think
CHUNK_HEADER = 8  # bytes before the packets of an AVI
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
        doubt: seconds by which what follows damage may be early or late; None: nobody knows by how much.
        tail: seconds that are lost behind the last frame.

    Raises:
        av.FFmpegError, OSError: it cannot be opened.
        ValueError: it has no such track.
    """

    def __init__(self, view: View, track: int | None = None):
        self.view, self.share = view, view.share
        self.container = open_container(view, options=CLOSED)
        self.format = self.container.format.name.split(",")[0]
        self.framing = framing_of(view, self.format)
        if self.framing and self.framing.holes:
            frames = self.framing.spliced(view)
            self.container = open_container(frames, format=self.format, options=CLOSED)
        streams = self.container.streams.audio
        if not streams:
            others = "only video" if self.container.streams.video else "no audio track"
            raise ValueError(f"holds no sound ({others})")
        if track is not None and not 1 <= track <= len(streams):
            raise ValueError(f"has {len(streams)} audio tracks, so there is no track {track}")
        self.stream = streams[track - 1] if track else self.container.streams.best("audio") or streams[0]
        if self.stream.codec_context is None:
            raise ValueError("FFmpeg has no decoder for its sound")
        self.tracks = [_described(stream) for stream in streams]
        self.number = list(streams).index(self.stream) + 1
        self.codec = self.stream.codec_context.name
        self.channels = self.stream.codec_context.layout.nb_channels
        self.timed = self.format not in UNTIMED and not (self.format == "wav" and self.codec.startswith("mp3"))
        self.decoder = self.stream.codec_context
        if self.codec in CHECKED:
            self.decoder.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        self.index = self._index() if self.format == "avi" else {}
        self.clock = ogg.clock(view.again()) if self.format == "ogg" else None
        self.clock_rate = 48_000 if self.codec == "opus" else self.stream.codec_context.sample_rate
        self.origin = self._origin()
        self.promised = self._promised()
        self.reached, self.ends_damaged, self.skipped = 0.0, False, False
        self.count, self.first = 0, b""  # packets, and how the first one starts
        self.last: tuple[int | None, float] = None, 0.0  # where the last packet is, and when it ends
        self.doubt: float | None = 0.0
        self.tail = 0.0

    def close(self) -> None:
        self.container.close()

    def frames(self) -> Iterator[Decoded]:
        """All frames that can be decoded."""
        frames = self._timed_frames() if self.timed else self._untimed_frames()
        yield from frames
        self.ends_damaged |= self.view.is_cut
        if self.view.patches and self.format == "wav":  # read to the end of the file, wherever that falls in a packet
            self.ends_damaged = False
        ends_whole = ENDS.get(self.format)
        if ends_whole and not ends_whole(self.view.again()):
            self.ends_damaged, self.promised = True, None  # nobody knows how much followed

    @property
    def is_complete(self) -> bool:
        """Whether every packet that the index names is there; a header may promise more than was recorded."""
        return self.format == "mov" and 0 < self.stream.frames <= self.count and not self.ends_damaged

    def _index(self) -> dict[int, int]:
        """Times by place of the packets of an AVI: FFmpeg counts what it reads, the index knows what there was."""
        unit = avi.sample_size(self.view.again(), self.stream.index)
        index = {entry.pos + CHUNK_HEADER: entry.timestamp // unit for entry in self.stream.index_entries}
        last = max(index.values(), default=0) * self.stream.time_base
        return index if last <= LONGER * (self.container.duration or 0) / av.time_base else {}  # else of another unit

    def _origin(self) -> float:
        start = (self.container.start_time or 0) / av.time_base
        overlap = BLOCK_OVERLAP if self.codec == "vorbis" else 0.0
        if self.clock and self.clock.first / self.clock_rate - overlap <= start < LATEST_START:
            return 0.0  # it starts late because its first page is damaged, not because it is part of a longer stream
        return 0.0 if self.format in ZERO_BASED and 0 <= start < LATEST_START else start

    def _promised(self) -> float | None:
        stream = self.stream
        if not self.timed:
            told = mp3_seconds(self.view.again()) if self.format == "mp3" else None
            # FFmpeg knows the samples that the encoder added, but guesses where a header does not fit the file.
            return told and min(told, float((stream.duration or 0) * stream.time_base) or told)
        if self.format == "ogg":
            return self.clock and self.clock.last / self.clock_rate - self.origin
        if self.format == "asf":
            return asf_seconds(self.view.again())
        if self.format == "avi" and self.view.share == 1 and len(self.index) > 2:
            return float(max(self.index.values()) * stream.time_base)
        if self.format not in TELLING or self.view.is_fragmented:
            return None
        if self.format in ("aiff", "caf") and self.codec.startswith("pcm") and stream.frames:
            return stream.frames / stream.codec_context.sample_rate
        if stream.duration and self.format == "flac":  # counts from zero, wherever the first good frame is
            return float(stream.duration * stream.time_base) - self.origin
        if stream.duration:
            return float((stream.duration + (stream.start_time or 0)) * stream.time_base) - self.origin
        return self.container.duration / av.time_base if self.container.duration else None

    def _timed_frames(self) -> Iterator[Decoded]:
        suspicion = 0  # frames for which a gap is still put down to the last sign of damage
        for packet, late in self._late_packets():
            self.skipped |= self.format in WALKED and self._has_gap(packet)
            frames = self._decoded(packet)
            if packet.size:  # the last is empty and brings what the decoder still holds
                self.ends_damaged = packet.is_corrupt or frames is None
                if self.ends_damaged or self.skipped:
                    suspicion, self.skipped = SUSPECT, False
            for frame in frames or ():
                yield Decoded(frame, None if frame.time is None else frame.time + late, suspicion > 0)
                suspicion = max(0, suspicion - 1)

    def _has_gap(self, packet: av.Packet) -> bool:
        """Whether there is time between a packet and the one before, and damage in the bytes."""
        if packet.pts is None:
            return False
        (place, end), time = self.last, float(packet.pts * packet.time_base)
        here = packet.pos  # None where it is not the first one of what was sent together, between which nothing is
        self.last = place if here is None else here, time + float((packet.duration or 0) * packet.time_base)
        if None in (place, here) or time < end + JITTER:
            return False
        return not WALKED[self.format](self.view.again(), place, min(here, place + LONGEST_GAP), self.stream.id)

    def _late_packets(self) -> Iterator[tuple[av.Packet, float]]:
        """Packets, and by how many seconds each is later than FFmpeg says."""
        if self.clock:
            yield from self._ogg_packets()
            return
        late = 0.0
        for packet in self._packets():
            indexed = self.index.get(packet.pos)
            if indexed is not None and packet.pts is not None:
                before, late = late, float((indexed - packet.pts) * packet.time_base)
                self.skipped |= late != before
            yield packet, late

    def _ogg_packets(self) -> Iterator[tuple[av.Packet, float]]:
        """Packets, and how much later each is.

        FFmpeg lets the last page, and each page of FLAC and Speex, follow the one before, be that lost or not, and
        stretches the last packet to the end.
        """
        for place, packets in groupby(self._packets(), key=lambda packet: packet.pos if packet.size else None):
            late, page = 0.0, list(packets)
            if place == self.clock.last_page:
                usual = max((p.duration or 0 for p in page[:-1]), default=0)
                late = float((page[-1].duration or 0) - usual) * self.stream.time_base if usual else 0.0
            elif self.codec in COUNTED and place is not None and page[0].pts is not None:
                start = ogg.granule(self.view.again(), place) / self.clock_rate
                late = start - float((page[0].pts + sum(p.duration or 0 for p in page)) * self.stream.time_base)
            yield from ((packet, late if late > BLOCK_OVERLAP else 0.0) for packet in page)

    def _untimed_frames(self) -> Iterator[Decoded]:
        """Frames that say no time, after what is lost before each; `tail` is what is lost behind the last."""
        holes, place, lost, used, played = self._holes(), None, 0.0, 0, 0.0
        for packet in self._packets():
            place = (packet.pos or 0) if place is None else place  # behind a frame that only counts the others
            while holes and holes[0].place <= place:
                lost += holes.pop(0).seconds
            frames = self._decoded(packet)
            if packet.size:
                refused = frames is None and not bytes(packet).startswith(TAGS)
                header = self.framing and self.framing.parse(bytes(packet))
                lost += refused * (header.seconds if header else packet.size * played / max(1, used))
                self.ends_damaged = packet.is_corrupt or refused
                self.doubt = None if refused and not header else self.doubt
            place, used = place + packet.size, used + (packet.size if frames else 0)
            for frame in frames or ():
                played += frame.samples / frame.sample_rate
                yield Decoded(frame, None, lost > 0, lost)
                lost = 0.0
        self.tail = lost
        self.ends_damaged |= bool(self.framing and self.framing.is_cut)

    def _holes(self) -> list[Hole]:
        """Where frames are missing, and how long; sets the doubt about it."""
        if not self.framing or not self.framing.holes:
            return []
        total = mp3_seconds(self.view.again()) if self.format == "mp3" else None
        self.framing.measure(total and total + self.framing.seconds)  # with the frame that only counts the others
        self.doubt = self.framing.doubt
        return list(self.framing.holes)

    def _decoded(self, packet: av.Packet) -> list[av.AudioFrame] | None:
        """The frames of a packet; None where the decoder refuses it, or finds a crowd of channels in noise."""
        if self.codec in ZEROS_PLAY and packet.size > LONGEST_PAUSE and not any(bytes(packet)):
            return None
        try:
            frames = [frame for frame in self.decoder.decode(packet) if frame.samples]
        except av.FFmpegError:
            frames = None
        if frames is None or any(f.layout.nb_channels >= max(MANY_PLANES, self.channels + 1) for f in frames):
            self.decoder = _fresh(self.decoder)
            return None
        return frames

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
                self.first = self.first or bytes(packet)[:32]
                self.count += bool(packet.size)
                yield packet
            elif packet.pts is not None and packet.size:
                last = float((packet.pts + (packet.duration or 0)) * packet.time_base) - self.origin
                self.reached = max(self.reached, last)


def _fresh(decoder: av.AudioCodecContext) -> av.AudioCodecContext:
    """A decoder that noise has not told of other channels: one of AAC refuses all that follows; others recover."""
    if decoder.name != "aac":
        return decoder
    fresh = av.AudioCodecContext.create(decoder.name, "r")
    fresh.extradata = decoder.extradata
    return fresh


def _described(stream) -> str:
    language = stream.metadata.get("language", "")
    title = stream.metadata.get("title", "")
    codec = stream.codec_context.name if stream.codec_context else "unknown"
    default = "default" if stream.disposition & av.stream.Disposition.default else ""
    return ", ".join(part for part in (language, title, codec, default) if part)
