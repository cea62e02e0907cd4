"""A running server under load: many clients at once beside one alone, each answer compared with its own text.

    python -m asr.serve --no_page &
    python -m recipes.benchmark server talk.flac --clients 64 --seconds 120 --pid $!

Clips of 1 to 30 s are cut out of the recordings at random places. First one client sends each of them, which gives the
texts to expect and the times to compare with; then many clients send clips in random order for the time given. A 429
is waited for as the server asks and counted. Memory is that of the process behind --pid (Linux).
The exit status is 1 where an answer was an error other than 429 or another clip's text.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from asr.console.program import program
from recipes.evaluation.side_by_side import make_parser, table

CLIP_SECONDS = (1.0, 30.0)
MEMORY_EVERY = 5.0  # seconds


@dataclass
class Clip:
    data: bytes
    seconds: float
    text: str | None = None


@dataclass
class Tally:
    """What a run came to."""

    latencies: list[float] = field(default_factory=list)  # seconds
    audio: float = 0.0  # seconds recognised
    refused: int = 0
    errors: list[str] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)  # expected and answered texts that differ
    memory: list[float] = field(default_factory=list)  # MB over time
    wall: float = 0.0

    def row(self, name: str) -> list[str]:
        ordered = sorted(self.latencies)
        middle, tail = (ordered[int(q * (len(ordered) - 1))] if ordered else 0.0 for q in (0.5, 0.95))
        speed, times = f"{self.audio / max(self.wall, 1e-9):.1f}", [f"{middle:.2f}", f"{tail:.2f}"]
        counts = [str(self.refused), str(len(self.errors)), str(len(self.foreign))]
        return [name, str(len(ordered)), speed, *times, *counts]


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("server", __doc__)
    parser.add_argument("audio", nargs="+", type=Path, help="recordings to cut clips from")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="(default: %(default)s)")
    parser.add_argument("--key", default="", help="API key of the server")
    parser.add_argument("--clients", type=int, default=64, help="at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=120, help="of load (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=40, help="different clips (default: %(default)s)")
    parser.add_argument("--pid", type=int, help="process of the server, for its memory")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    clips = cut(args.audio, args.clips, random.Random(args.seed))
    alone, together = asyncio.run(_measure(clips, args))
    heads = ("clients", "answers", "audio s per s", "median s", "p95 s", "429", "errors", "foreign texts")
    print(table(heads, [alone.row("1"), together.row(str(args.clients))]))
    if together.memory:
        tenth = max(1, len(together.memory) // 10)
        first, last = (sum(part) / tenth for part in (together.memory[:tenth], together.memory[-tenth:]))
        most = max(together.memory)
        print(f"\nmemory: {first:.0f} MB at the start of the load, {last:.0f} at its end, {most:.0f} at most")
    for problem in (*together.errors[:5], *together.foreign[:5]):
        print(problem, file=sys.stderr)
    return int(bool(alone.errors or together.errors or together.foreign))


def cut(recordings: list[Path], count: int, rng: random.Random) -> list[Clip]:
    """Random clips as WAV files, short ones as likely as long ones."""
    import numpy as np
    import soundfile

    from asr.audio.io import SAMPLING_RATE, load

    wave = np.concatenate([load(path) for path in recordings])
    clips = []
    for _ in range(count):
        seconds = min(rng.uniform(*CLIP_SECONDS), len(wave) / SAMPLING_RATE)
        start = rng.randrange(len(wave) - int(seconds * SAMPLING_RATE) + 1)
        file = BytesIO()
        soundfile.write(file, wave[start : start + int(seconds * SAMPLING_RATE)], SAMPLING_RATE, format="WAV")
        clips.append(Clip(file.getvalue(), seconds))
    return clips


async def _measure(clips: list[Clip], args: argparse.Namespace) -> tuple[Tally, Tally]:
    import httpx

    headers = {"Authorization": f"Bearer {args.key}"} if args.key else {}
    limits = httpx.Limits(max_connections=args.clients)
    async with httpx.AsyncClient(base_url=args.url, headers=headers, timeout=600, limits=limits) as http:
        alone = Tally()
        await _send(http, clips[0], Tally())  # warm-up
        started = time.monotonic()
        for clip in clips:
            clip.text = await _send(http, clip, alone)
        alone.wall = time.monotonic() - started
        together = Tally()
        watch = asyncio.create_task(_watch_memory(args.pid, together))
        started = time.monotonic()
        until = started + args.seconds
        await asyncio.gather(*(_client(http, clips, until, args.seed + i, together) for i in range(args.clients)))
        together.wall = time.monotonic() - started
        watch.cancel()
    return alone, together


async def _client(http, clips: list[Clip], until: float, seed: int, tally: Tally) -> None:
    rng = random.Random(seed)
    while time.monotonic() < until:
        clip = rng.choice(clips)
        text = await _send(http, clip, tally)
        if text is not None and text != clip.text:
            tally.foreign.append((clip.text, text))


async def _send(http, clip: Clip, tally: Tally) -> str | None:
    """The text of a clip, None after an error."""
    import httpx

    while True:
        started = time.monotonic()
        try:
            answer = await http.post("/v1/audio/transcriptions", files={"file": ("clip.wav", clip.data)})
        except httpx.HTTPError as error:
            tally.errors.append(repr(error))
            return None
        if answer.status_code == 429:
            tally.refused += 1
            await asyncio.sleep(int(answer.headers["retry-after"]))
            continue
        if answer.status_code != 200:
            tally.errors.append(f"{answer.status_code} {answer.text[:200]}")
            return None
        tally.latencies.append(time.monotonic() - started)
        tally.audio += clip.seconds
        return answer.json()["text"]


async def _watch_memory(pid: int | None, tally: Tally) -> None:
    while pid:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        tally.memory.append(int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000)
        await asyncio.sleep(MEMORY_EVERY)
