"""Processes and nodes that are killed: nothing is lost, nothing is there twice, memory stays flat."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
RAY = ["workers=2", "cpus=0.5"]
OWN_WORK = """
import os
import time

from asr.audio import load

class Length:
    columns = {"id": "string", "seconds": "float64", "error": "string"}

    def __init__(self, job, out):
        pass

    def __call__(self, rows):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        return [{"id": row["id"], "seconds": self.seconds(row["path"]), "error": None} for row in rows]

    def seconds(self, path):
        return len(load(path)) / 16000

class Size(Length):
    def seconds(self, path):  # of a WAV, without what decoding costs
        return (os.path.getsize(path) - 44) / 32000
"""


@pytest.fixture(autouse=True)
def importable(tmp_path, monkeypatch):
    """This checkout, and works that take PAUSE seconds a part and no model, on every node."""
    (tmp_path / "own_work.py").write_text(OWN_WORK)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    monkeypatch.setenv("RAY_worker_niceness", "0")


@contextlib.contextmanager
def started(arguments):
    """The program as a process; killed at the end if it still runs."""
    command = [sys.executable, "-m", "recipes.corpus", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell's background jobs ignore
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition, process, seconds: float = 300):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def parts(out: Path) -> int:
    return len(list(out.glob("part-*")))


def finished(arguments) -> str:
    with started(arguments) as process:
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return output


@pytest.mark.parametrize(("work", "how"), [("transcribe", []), ("own_work:Length", RAY)], ids=["plain", "ray"])
def test_killed_at_three_moments(work, how, monkeypatch, make_corpus, tmp_path, tiny_ctc_model, rows_of):
    if how:
        pytest.importorskip("ray")
    monkeypatch.setenv("PAUSE", "0.1")
    table, out = make_corpus(tmp_path / "data", 80), tmp_path / "out"
    common = [f"model={tiny_ctc_model}", "part_seconds=4"]  # the same batches, so the same to the last bit
    arguments = [work, table, out, *common, *how]
    for count in (0, 3, 15):  # while it loads, early, later
        with started(arguments) as process:
            wait_for(lambda count=count: (out / "job.json").exists() and parts(out) >= count, process)
            process.kill()
    assert finished(arguments).startswith("80 recordings")
    monkeypatch.setenv("PAUSE", "0")
    finished([work, table, tmp_path / "whole", *common])
    assert rows_of(out) == rows_of(tmp_path / "whole") and len(rows_of(out)) == 80


def test_an_interrupt_says_how_to_go_on(make_corpus, monkeypatch, tmp_path):
    monkeypatch.setenv("PAUSE", "0.5")
    table, out = make_corpus(tmp_path / "data", 80), tmp_path / "out"
    with started(["own_work:Length", table, out, "part_seconds=4"]) as process:
        wait_for(lambda: parts(out), process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors


@pytest.fixture
def two_nodes(importable):
    """A head without CPUs and two nodes of one CPU each: address, kill() for the second node."""
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(2)]
    yield cluster.address, lambda: cluster.remove_node(nodes[1], allow_graceful=False)
    ray.shutdown()
    cluster.shutdown()


def test_a_node_dies(two_nodes, make_corpus, tmp_path, tiny_ctc_model, rows_of):
    address, kill = two_nodes
    table, out = make_corpus(tmp_path / "data", 300), tmp_path / "out"
    common = [f"model={tiny_ctc_model}", "part_seconds=40"]
    with started(["transcribe", table, out, f"address={address}", *common]) as process:
        wait_for(lambda: parts(out) >= 15, process)
        kill()
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    finished(["transcribe", table, tmp_path / "plain", *common])
    rows = rows_of(out)
    assert [row["id"] for row in rows] == [f"rec-{i:04d}" for i in range(300)]
    assert rows == rows_of(tmp_path / "plain")
    assert {path.name for path in out.glob("part-*")} == {path.name for path in (tmp_path / "plain").glob("part-*")}


def test_a_model_that_is_not_there_is_said_once(make_corpus, tmp_path):
    pytest.importorskip("ray")
    table = make_corpus(tmp_path / "data", 4)
    with started(["transcribe", table, tmp_path / "out", f"model={tmp_path / 'no_model'}", *RAY]) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "no_model" in errors.splitlines()[-1] and "Traceback" not in errors


PEAK = """
import resource, sys
from recipes.corpus.__main__ import main
assert main(["own_work:Size", *sys.argv[1:]]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_fifty_thousand_tiny_files_in_flat_driver_memory(make_tone, tmp_path):
    pytest.importorskip("ray")
    from asr.audio import save

    for number in range(10):
        save(tmp_path / f"{number}.wav", make_tone(440, 0.01 * (number + 1)))
    peaks = []
    for count in (5_000, 50_000):
        rows = "".join(f"row-{i}\t{i % 10}.wav\n" for i in range(count))
        (tmp_path / "table.tsv").write_text("id\tpath\n" + rows)
        command = [sys.executable, "-c", PEAK, tmp_path / "table.tsv", tmp_path / str(count), *RAY, "part_seconds=9000"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{count} recordings")
        peaks.append(float(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 25, peaks  # MB
