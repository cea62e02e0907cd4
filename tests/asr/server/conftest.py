"""Servers for the tests: a real process with the real models, and one in this process whose recogniser is a toy.

The toy names tones by their pitch, so that each answer can be told from every other, and takes no time.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio.io import save, stream
from asr.audio.segment import Segmenter
from asr.output.transcript import Segment, Word
from asr.recogniser import DecodeOptions

pytest.importorskip("fastapi", reason="needs the extra 'serve'")

KEY = "a key for the tests"
RATE = 16_000


class Deaf:
    """Stands for a recogniser that knows two languages and prompts, but no temperature."""

    languages = ("en", "de")

    def prepare(self, options):
        if options.temperature or options.task == "translate" or options.language not in (None, *self.languages):
            raise ValueError("cannot")


class Namer:
    """Stands for a Transcriber: names segments by their pitch and fails at 900 Hz."""

    batch_size = 4
    recogniser, options = Deaf(), DecodeOptions()
    reading, strict = {}, False

    def __init__(self):
        self.segmenter = Segmenter(detector=loudness, padding=0, max_pause=0.3, min_speech=0.1)
        self.batches, self.asked = [], []

    def recognise(self, segments, options=None):
        names = [self.name(segment) for segment in segments]
        self.batches.append(names)
        self.asked.append(options)
        if "900" in names:
            raise RuntimeError("too high")
        return [
            Segment(s.start, s.end, name, [Word(name, s.start, s.end, 0.5)])
            for s, name in zip(segments, names, strict=True)
        ]

    @staticmethod
    def name(segment):
        crossings = np.count_nonzero(np.diff(np.signbit(segment.wave)))
        return str(round(crossings / 2 / segment.duration / 100) * 100)


def loudness():
    """A speech detector that takes any sound for speech."""
    return lambda frames: (np.sqrt(np.mean(frames**2, axis=1)) > 0.01).astype(float)


class Halver:
    """Stands for a Denoiser: halves the level."""

    def denoise_file(self, source, target, progress):
        blocks = []
        for block in stream(source):
            progress(len(block) / RATE)
            blocks.append(block / 2)
        save(target, np.concatenate(blocks))


@contextmanager
def busy(worker):
    """The model of a worker has something else to do for as long as the context lasts."""
    gate, has_begun = threading.Event(), threading.Event()
    worker.call(lambda: (has_begun.set(), gate.wait(600)))
    has_begun.wait(60)
    try:
        yield
    finally:
        gate.set()


@dataclass
class Server:
    """A running server: where it is and where it keeps its files."""

    port: int
    parent: Path
    process: subprocess.Popen | None = None
    services: object = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def files(self) -> list[str]:
        """What requests have in its temporary folder."""
        return [str(path) for path in self.parent.glob("dspeech-serve-*/request-*")]


COMPUTE_TYPE = "float32"  # each process would choose what is fastest just then, and texts differ between types


def start_server(parent: Path, *options: str, key: str | None = KEY) -> Server:
    """A server on a free port, once it listens."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"DSPEECH_API_KEY": key} if key else {})
    command = [sys.executable, "-m", "asr.serve", "--port", "0", "--temporary_dir", str(parent), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    said = []
    for line in process.stderr:
        said.append(line)
        if "listening on http://127.0.0.1:" in line:
            return Server(int(line.rsplit(":", 1)[1]), parent, process)
    raise RuntimeError("the server did not start:\n" + "".join(said))


def stop_server(server: Server) -> int:
    """Interrupt it as Ctrl-C does; its exit status."""
    server.process.send_signal(signal.SIGINT)
    server.process.communicate(timeout=60)
    return server.process.returncode


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The real thing."""
    running = start_server(tmp_path_factory.mktemp("server"), "--no_page", "--compute_type", COMPUTE_TYPE)
    yield running
    assert stop_server(running) == 130
    assert not list(running.parent.iterdir()), "a server that ends leaves nothing"


@pytest.fixture(scope="session")
def toy_server(tmp_path_factory):
    """A server with small limits and toys for models, in a thread of this process."""
    import socket

    import uvicorn

    from asr.server.app import create_app
    from asr.server.folder import temporary_folder
    from asr.server.services import EnhancingThread, Services
    from asr.server.settings import Settings

    parent = tmp_path_factory.mktemp("toy_server")
    with temporary_folder(parent) as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Settings(folder, 3, 1, max_requests=8, max_live=1, upload_seconds=5, api_key=KEY)
        services = Services(settings, Namer(), "toy", EnhancingThread(Halver()), "halver")
        server = uvicorn.Server(uvicorn.Config(create_app(services, with_page=False), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Server(listener.getsockname()[1], parent, services=services)
        server.should_exit = True
        thread.join()
    assert not list(parent.iterdir()), "a server that ends leaves nothing"


@pytest.fixture(scope="session")
def transcriber():
    """The recogniser of the server, in this process."""
    from asr import Transcriber

    return Transcriber.from_pretrained(compute_type=COMPUTE_TYPE)


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """4.2 s of real speech at 16 kHz."""
    import asr

    return soundfile.read(Path(asr.__file__).with_name("sample.flac"), dtype="float32")[0]


def encoded(wave: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = BytesIO()
    soundfile.write(file, wave, rate, subtype, format=kind)
    return file.getvalue()
