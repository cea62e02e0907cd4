"""What a run is told: the fields of `python -m recipes.corpus WORK IN OUT field=value ...`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from recipes.corpus.storage import Folder

SETTINGS = "job.json"
HOW = ("source", "out", "workers", "address", "cpus", "gpus", "part_seconds", "retry_errors")  # results do not depend


@dataclass
class Job:
    """One work on one corpus.

    Args:
        work: transcribe, enhance, score, synthesise, label, pack, or module:Class.
        source: IN.
        out: OUT.
        workers: processes that hold the model; without `address` 1 is a plain loop in this process and more start Ray
            on this machine; with it, null is as many as there is room for.
        address: of a Ray cluster: auto or HOST:PORT; local is Ray on this machine, null this machine alone.
        cpus, gpus: of one worker, fractions allowed.
        part_seconds: about how much audio is worked on and written at once.
        format: of the parts, parquet or jsonl.
        retry_errors: work again on the rows that ended with an error.
        model: folder, name or Hub id; null is the work's own default.
        device: cpu, cuda ...; auto is a GPU where the worker has one.
        decoder: of transcribe, score and label.
        batch_size: segments recognised at once; they are sorted by length first.
        least_confidence: of label by our recogniser; rows below it are errors.
        teachers: of label: recognisers of transformers or faster-whisper; the first one's text counts where another
            one agrees.
        threshold: of label, highest normalised word difference of teachers that agree.
        attenuation_limit: of enhance, in dB.
        voices: of synthesise: espeak, flite, festival, hibari[:NAME], piper[:PLACE], vits:FOLDER_OR_HUB_ID.
        seed: of the choice of voices.
    """

    work: str
    source: str
    out: str
    workers: int | None = None
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    part_seconds: float = 300.0
    format: str = "parquet"
    retry_errors: bool = False
    model: str | None = None
    device: str = "auto"
    decoder: str | None = None
    batch_size: int = 8
    least_confidence: float = 0.0
    teachers: list[str] = field(default_factory=list)
    threshold: float = 0.1
    attenuation_limit: float | None = None
    voices: list[str] = field(default_factory=lambda: ["espeak", "flite"])
    seed: int = 0

    def check(self) -> None:
        """Raises ValueError: a field is out of its range."""
        for name, least in (("workers", 1), ("batch_size", 1), ("part_seconds", 0), ("cpus", 0), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if self.gpus and self.device == "cpu":
            raise ValueError(f"gpus is {self.gpus} but device is cpu: leave one of them out")

    @property
    def is_plain(self) -> bool:
        """Whether a loop in this process does it."""
        return self.address is None and (self.workers or 1) == 1

    def claim(self, out: Folder) -> None:
        """Note in OUT what it holds.

        Raises:
            ValueError: it holds results made with other settings.
        """
        mine = {k: v for k, v in dataclasses.asdict(self).items() if k not in HOW}
        if not out.exists(SETTINGS):
            out.write(SETTINGS, json.dumps(mine, indent=1).encode() + b"\n")
            return
        before = json.loads(out.read(SETTINGS))
        if differing := sorted(k for k in {*before, *mine} if before.get(k) != mine.get(k)):
            raise ValueError(
                f"{out.address} holds results made with other {', '.join(differing)}: name another OUT, or the "
                f"settings in its {SETTINGS}"
            )
