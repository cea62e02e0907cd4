"""What a transcription program does with its results: standard output, files, segments as they are ready."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from asr.console.program import complain, emit, json_text, printable, reason
from asr.output.subtitles import LineLimits
from asr.output.transcript import Segment, Transcript
from asr.output.writers import WRITERS, timed_line, write_timed_txt


@dataclass
class Results:
    """Where transcripts go.

    Args:
        targets: output path of every input and format; none: standard output.
        output_format: of standard output.
        limits: of subtitle lines.
        several: whether there are several inputs, which standard output has one a line then.
        timestamps: text has the times of its segments.
        verbose: segments are shown on standard error, with their times, as soon as they are recognised.
        rewritten: texts are not final before the recording is done.
        bar: the progress bar, which makes room for standard output.
    """

    targets: dict[str, dict[str, Path]]
    output_format: str
    limits: LineLimits
    several: bool
    timestamps: bool = False
    verbose: bool = False
    rewritten: bool = False
    bar: object = None
    unfinished: dict[str, list[Segment]] = field(default_factory=dict)

    @property
    def is_streamed(self) -> bool:
        """Whether standard output gets each segment when it is ready."""
        return not (self.targets or self.several or self.rewritten) and self.output_format == "txt"

    def ready(self, source: str, segments: list[Segment]) -> None:
        """The next segments of a recording are recognised."""
        self.unfinished.setdefault(source, []).extend(segments)
        if self.is_streamed:
            self._emit("".join(f"{self._line(segment)}\n" for segment in segments))
        for segment in segments if self.verbose else ():
            complain(f"{source} {timed_line(segment)}")

    def finish(self, source: str, transcript: Transcript) -> None:
        """A recording is done. Raises OSError where its transcript cannot be written."""
        if self.targets:
            self._write(transcript, self.targets[source].items())
            for path in self.targets[source].values():
                partial(path).unlink(missing_ok=True)  # of a run that was interrupted
        elif not self.is_streamed:
            self._emit(self._printed(source, transcript))
        self.unfinished.pop(source, None)

    def keep(self) -> None:
        """The program is interrupted: write what there is of recordings that are not done."""
        for source, segments in self.unfinished.items():
            transcript = Transcript(segments, segments[-1].end)
            until = f"{source}: interrupted; its text until {segments[-1].end:.1f} s"
            try:
                if self.targets:
                    paths = {name: partial(path) for name, path in self.targets[source].items()}
                    self._write(transcript, paths.items())
                    complain(f"{until} is in {', '.join(map(str, paths.values()))}")
                elif not self.several:
                    complain(f"{until} is printed")
                    if not self.is_streamed:
                        self._emit(self._printed(source, transcript))
            except OSError as error:
                complain(f"{source}: interrupted; its text cannot be kept ({reason(error)})")

    def _line(self, segment: Segment) -> str:
        return timed_line(segment) if self.timestamps else segment.text

    def _written(self, name: str, transcript: Transcript) -> str:
        writer = write_timed_txt if name == "txt" and self.timestamps else WRITERS[name]
        return writer(transcript, self.limits)

    def _write(self, transcript: Transcript, paths: Iterable[tuple[str, Path]]) -> None:
        from asr.audio.io import atomic_path

        for name, path in paths:
            with atomic_path(path) as temporary:
                temporary.write_text(self._written(name, transcript), encoding="utf-8")

    def _printed(self, source: str, transcript: Transcript) -> str:
        """What standard output gets of one transcript."""
        if not self.several:
            return self._written(self.output_format, transcript)
        if self.output_format == "json":
            return json_text({"path": source, **transcript.as_dict()})
        texts = [self._line(segment) for segment in transcript.segments] if self.timestamps else [transcript.text]
        return "".join(f"{printable(source)}\t{text}\n" for text in texts)

    def _emit(self, text: str) -> None:
        if self.bar is None:
            emit(text)
            return
        with self.bar.external_write_mode(file=sys.stdout):
            emit(text)


def partial(path: Path) -> Path:
    """Where an interrupted program leaves what it has: talk.partial.srt for talk.srt."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")
