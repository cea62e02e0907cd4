"""A small spoken corpus, and a web server that serves a folder."""

import functools
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

TEXTS = ("hello world how are you", "you are how", "the world is hello", "good morning everyone")


@pytest.fixture(scope="session")
def spoken(speak) -> list[np.ndarray]:
    """Waves of a few sentences at 16 kHz."""
    return [speak(text) for text in TEXTS]


@pytest.fixture
def make_corpus(spoken):
    """make_corpus(folder, count) -> table of so many different short recordings in wav/ beside it."""
    from asr.audio import save

    def make(folder: Path, count: int) -> Path:
        lines = ["id\tpath\tspeaker\ttext"]
        for number in range(count):
            which = number % len(spoken)
            wave = spoken[which] * (0.5 + 0.5 * number / count)
            save(folder / "wav" / f"{number:04d}.wav", wave)
            lines.append(f"rec-{number:04d}\twav/{number:04d}.wav\tspeaker{number % 3}\t{TEXTS[which]}")
        table = folder / "table.tsv"
        table.write_text("\n".join(lines) + "\n")
        return table

    return make


@pytest.fixture
def rows_of():
    """rows_of(out, format) -> all rows of a run, sorted by id."""
    from recipes.corpus.parts import Results
    from recipes.corpus.storage import Folder

    def read(out, format: str = "parquet") -> list[dict]:
        return sorted(Results(Folder(out), format, {}).rows(), key=lambda row: row["id"])

    return read


@pytest.fixture
def serve():
    """serve(folder) -> http address of it."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    def start(folder: Path) -> str:
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
