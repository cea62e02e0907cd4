"""From tables of recordings to batches and feature stores, LibriSpeech from its archives, tables of results, cards."""

import hashlib
import io
import json
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile

from asr.audio.augment import seeded
from recipes.data import librispeech
from recipes.data.store import FeatureStore
from recipes.data.table_data import TableBatches, TableData, table_features
from recipes.data.toy import say, sentences
from recipes.evaluation.librispeech_table import main as table_main


@pytest.fixture
def table(tmp_path):
    """Eight toy recordings and a broken one."""
    rng = seeded(0)
    rows = ["id\tpath\ttext"]
    for i, text in enumerate(sentences(8, rng)):
        soundfile.write(tmp_path / f"{i}.wav", say(text, rng), 16000)
        rows.append(f"{i}\t{i}.wav\t{text}")
    (tmp_path / "broken.wav").write_bytes(b"RIFF nonsense")
    path = tmp_path / "table.tsv"
    path.write_text("\n".join([*rows, "b\tbroken.wav\tbad"]) + "\n")
    return path


def test_tables_become_batches_of_waves(table, capsys):
    batches = TableBatches(TableData(str(table), str(table), batch_seconds=4, shortest=0.1, validation_utterances=3), 0)
    assert "broken.wav" in capsys.readouterr().err
    plans = batches.plan(0, 0, 1)
    assert sorted(i for plan in plans for _, i in plan.items) == list(range(8))  # an epoch is everything once
    waves, texts = batches.read(plans[0])
    assert len(waves) == len(texts) and waves[0].dtype == np.float32
    for plan in plans:
        seconds = [len(w) / 16000 for w in batches.read(plan)[0]]
        assert max(seconds) * len(seconds) <= 4
    assert sum(len(texts) for _, texts in batches.held_out(2)) == 3


def test_tables_become_feature_stores_once(table, tmp_path):
    data = table_features(str(table), str(table), str(tmp_path / "features"), copies=2, batch_seconds=9)
    store = FeatureStore(data.stores[0].folder)
    assert len(store) == 16 and len(FeatureStore(data.validation)) == 8 and data.batch_seconds == 9
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "features").rglob("*.npy")}
    again = table_features(str(table), str(table), str(tmp_path / "features"), copies=2)
    assert again.stores == data.stores
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "features").rglob("*.npy")}
    table.write_text(table.read_text().replace("b\tbroken.wav\tbad\n", ""))
    assert table_features(str(table), str(table), str(tmp_path / "features"), copies=2).stores != data.stores


# -- LibriSpeech -------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves an archive of two utterances in LibriSpeech's layout, parts of it too; yields address and requests."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        wave = io.BytesIO()
        soundfile.write(wave, np.zeros(1600), 16000, format="FLAC")
        files = {f"1-2-000{i}.flac": wave.getvalue() for i in (0, 1)}
        files["1-2.trans.txt"] = b"1-2-0000 ONE TWO\n1-2-0001 THREE\n"
        for name, data in files.items():
            entry = tarfile.TarInfo(f"LibriSpeech/dev-clean/1/2/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    data, asked = content.getvalue(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            asked.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:])

        def log_message(self, *args):
            pass

    monkeypatch.setattr(librispeech, "UTTERANCES", {"dev-clean": 2})
    monkeypatch.setattr(librispeech, "_checksum", lambda part: hashlib.sha256(data).hexdigest())
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", data, asked
        httpd.shutdown()


def test_librispeech_goes_on_where_it_stopped(server, tmp_path):
    address, data, asked = server
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "dev-clean.tar.gz.part").write_bytes(data[:100])
    (root / "LibriSpeech" / "dev-clean" / "1").mkdir(parents=True)  # unpacked in part
    table = librispeech.prepare(root, "dev-clean", address)
    assert asked == [100]
    assert table.read_text().splitlines()[1:] == [
        "1-2-0000\tLibriSpeech/dev-clean/1/2/1-2-0000.flac\t1\tone two",
        "1-2-0001\tLibriSpeech/dev-clean/1/2/1-2-0001.flac\t1\tthree",
    ]
    librispeech.prepare(root, "dev-clean", address)
    assert asked == [100]  # all there, nothing fetched
    table.write_text("\n".join(table.read_text().splitlines()[:2]) + "\n")
    librispeech.prepare(root, "dev-clean", address)
    assert len(table.read_text().splitlines()) == 3 and asked == [100]


def test_a_damaged_archive_is_refused_and_fetched_again(server, tmp_path):
    address, data, asked = server
    (tmp_path / "dev-clean.tar.gz.part").write_bytes(b"x" * 50)
    with pytest.raises(ValueError, match="damaged"):
        librispeech.prepare(tmp_path, "dev-clean", address)
    assert not list(tmp_path.glob("dev-clean*"))
    librispeech.prepare(tmp_path, "dev-clean", address)
    assert asked == [50, 0]


# -- the table of results ----------------------------------------------------------------------------------


def test_results_are_shared_resumed_and_written(table, tiny_ctc_model, tmp_path, capsys):
    table.write_text(table.read_text().replace("b\tbroken.wav\tbad\n", ""))
    shutil.copy(table, tmp_path / "dev-clean.tsv")
    out = tmp_path / "out"
    arguments = [str(tmp_path), f"tiny={tiny_ctc_model}:greedy", "--parts", "dev-clean", "--out", str(out)]
    arguments += ["--device", "cpu"]
    assert table_main([*arguments, "--shard_index", "1", "--shard_count", "2"]) == 0
    assert not (out / "results.md").exists()
    (share,) = (out / "tiny").glob("*.jsonl")
    first = share.read_text()
    assert 0 < len(first.splitlines()) < 8
    share.write_text(first[:-20])  # killed while writing
    assert table_main([*arguments, "--shard_index", "1", "--shard_count", "2"]) == 0
    assert table_main(arguments) == 0
    rows = json.loads((out / "results.json").read_text())["tiny"]["dev-clean"]
    assert rows["scores"][0]["wer"] > 0 and rows["speed"] > 0
    assert "| tiny |" in capsys.readouterr().out and (out / "results.md").exists()
    found = [json.loads(l)["id"] for f in (out / "tiny").glob("*0of1*") for l in f.read_text().splitlines()]
    assert found and not set(found) & {json.loads(l)["id"] for l in first.splitlines()}
    assert table_main([str(tmp_path), "nonsense", "--out", str(out)]) == 2


# -- ready for the package and the Hub ----------------------------------------------------------------------


def test_a_run_becomes_a_model_folder_with_a_card(tmp_path, capsys):
    from asr.ctc.model import CTCModel
    from recipes.export_compact import main
    from recipes.training.build import compose, trainer_of

    config = compose(["experiment=debug", "model.width=32", "task.utterances=40", f"run_folder={tmp_path / 'run'}"])
    config.trainer.update(steps=2, validate_every=1, progress=False)
    metrics = trainer_of(config).fit()
    (tmp_path / "extra.txt").write_text("more")
    out = tmp_path / "compact"
    arguments = [str(tmp_path / "run"), str(out), "--data", "Tones made on the spot.", "--add"]
    assert main([*arguments, str(tmp_path / "extra.txt")]) == 0
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlanguage: en\nlicense: cc-by-4.0\n") and "Tones made on the spot." in card
    assert f"| wer | {metrics['wer']:.4g} |" in card and "python -m recipes.train" in card and "after 2 steps" in card
    assert CTCModel.from_pretrained(out).encoder.config.width == 32 and (out / "extra.txt").exists()
    assert main([str(tmp_path), str(out), "--data", "nothing"]) == 1 and "model.safetensors" in capsys.readouterr().err


def test_the_card_stays_when_the_model_is_saved_over_it(tmp_path, tiny_ctc_model):
    from asr.ctc.model import CTCModel
    from asr.hub import ModelCard

    ModelCard("tiny", "Says words.", "None.", "make", {"wer": 1.0}, base_models=("a/b",)).write(tmp_path)
    CTCModel.from_pretrained(tiny_ctc_model).save_pretrained(tmp_path)
    assert (
        "Says words." in (tmp_path / "README.md").read_text()
        and "base_model:\n- a/b" in (tmp_path / "README.md").read_text()
    )


def test_the_benchmark_of_large_shapes_runs_small(capsys):
    from recipes.benchmarks.large_shapes import main

    arguments = ["--tiny", "--repeats", "1", "--tokens", "4", "--passes", "1.5", "--batch", "1", "2"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in result["rows"]] == [1, 2]
    assert all(row["ratio"][part] > 0 for row in result["rows"] for part in ("decoder", "whole"))
