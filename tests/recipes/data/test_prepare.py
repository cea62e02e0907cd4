"""Data preparation: tables, shards that survive a kill, and the tools that learn from text."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from asr.ctc.ngram import NGram
from asr.text.tokenizer import Tokenizer
from recipes.data.corpora import read_noises, read_table, write_table
from recipes.data.store import FeatureStore
from recipes.prepare import main

TEXT = "the cat sat on the mat\na dog sat there\n" * 10


@pytest.fixture
def corpus(tmp_path):
    """Three short recordings, one of them broken, as a table."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.flac", 0.1 * rng.standard_normal(12000), 16000)
    (tmp_path / "c.flac").write_bytes(b"fLaC nonsense")
    rows = [f"{name}\t{name}.flac\tspeaker-{name}\tthe cat" for name in "abc"]
    (tmp_path / "table.tsv").write_text("id\tpath\tspeaker\ttext\n" + "\n".join(rows) + "\n")
    return tmp_path


def test_recorded_store(corpus, capfd):
    arguments = ["recorded", str(corpus / "table.tsv"), str(corpus / "store"), "--copies", "3", "--workers", "1"]
    assert main(arguments) == 1  # one recording cannot be read
    assert capfd.readouterr().err.count("c.flac") == 1
    store = FeatureStore(corpus / "store")
    assert [e.id for e in store.examples] == ["a#0", "b#0", "a#1", "b#1", "a#2", "b#2"]
    clean, augmented = store.features(0), store.features(2)
    assert clean.shape == (12000 // 160 + 1, 80) and abs(float(clean.mean())) < 1e-3
    assert clean.shape != augmented.shape or not np.allclose(clean, augmented)


def test_a_shard_none_of_whose_recordings_can_be_read_is_empty(corpus, capfd):
    for name in ("a", "b"):
        (corpus / f"{name}.flac").write_bytes(b"fLaC nonsense")
    store = corpus / "store"
    assert main(["recorded", str(corpus / "table.tsv"), str(store), "--copies", "1", "--workers", "1"]) == 1
    assert capfd.readouterr().err.count("left out") == 3
    assert (store / "00000.jsonl").exists() and len(FeatureStore(store)) == 0


def test_a_store_of_whisper_features_with_times_of_words(corpus, tiny_ctc_model, capsys):
    arguments = ["recorded", str(corpus / "table.tsv"), str(corpus / "store"), "--copies", "1", "--workers", "1"]
    assert main([*arguments, "--features", "whisper", "--align", str(tiny_ctc_model)]) == 1
    store = FeatureStore(corpus / "store", "whisper")
    assert store.features(0).shape == (12000 // 160, 80) and abs(float(store.features(0).mean())) > 0.01
    assert all(len(example.spans) == 2 for example in store.examples)  # "the cat"
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "holds whisper features" in capsys.readouterr().err


def test_a_lost_shard_is_made_again_the_same(corpus):
    arguments = ["recorded", str(corpus / "table.tsv"), str(corpus / "store"), "--copies", "2", "--workers", "1"]
    main(arguments)
    before = np.load(corpus / "store" / "00000.npy")
    (corpus / "store" / "00000.jsonl").unlink()
    (corpus / "store" / "00000.npy.part").write_bytes(b"half")
    main(arguments)
    assert np.array_equal(before, np.load(corpus / "store" / "00000.npy"))


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_synthetic_store(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    assert (
        main(
            [
                "synthetic",
                str(tmp_path / "text.txt"),
                str(tmp_path / "store"),
                "--hours",
                "0.001",
                "--voices",
                "espeak",
                "--workers",
                "1",
            ]
        )
        == 0
    )
    store = FeatureStore(tmp_path / "store")
    assert len(store) == 20 and {e.text for e in store.examples} == set(TEXT.split("\n")) - {""}
    assert all(e.speaker.startswith("espeak:") for e in store.examples)


def test_missing_voices_are_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main(["synthetic", str(tmp_path / "text.txt"), str(tmp_path / "store"), "--voices", "flite"])
    assert stop.value.code == 2 and "flite" in capsys.readouterr().err


def test_tokenizer_and_ngram(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    assert main(["tokenizer", str(tmp_path / "text.txt"), str(tmp_path / "t.json"), "--vocabulary", "40"]) == 0
    tokenizer = Tokenizer.load(tmp_path / "t.json")
    assert tokenizer.decode(tokenizer.encode("the mat sat")) == "the mat sat"
    assert (
        main(
            [
                "ngram",
                str(tmp_path / "text.txt"),
                str(tmp_path / "lm.npz"),
                "--tokenizer",
                str(tmp_path / "t.json"),
                "--min_counts",
                "1",
                "1",
                "1",
            ]
        )
        == 0
    )
    assert NGram.load(tmp_path / "lm.npz").order == 3


def test_written_tokenizer(tmp_path):
    (tmp_path / "text.txt").write_text(
        "Dr. Who said: \u201cIt\u2019s 5 o\u2019clock!\u201d\nIs it?\n" * 5, encoding="utf-8"
    )
    arguments = ["tokenizer", str(tmp_path / "text.txt"), str(tmp_path / "t.json"), "--vocabulary", "100", "--written"]
    assert main(arguments) == 0
    tokenizer = Tokenizer.load(tmp_path / "t.json")
    assert tokenizer.written and tokenizer.decode(tokenizer.encode("Dr. Who's 5, Is it?")) == "Dr. Who's 5, Is it?"
    arguments = ["ngram", str(tmp_path / "text.txt"), str(tmp_path / "lm.npz"), "--tokenizer", str(tmp_path / "t.json")]
    assert main([*arguments, "--min_counts", "1", "1"]) == 0
    its = tokenizer.encode("It's")
    lm = NGram.load(tmp_path / "lm.npz")
    assert lm.vocabulary == len(tokenizer) and set(its) <= set(lm.keys[0].tolist())  # its apostrophe was made straight


def test_tables_round_trip_and_complain(corpus):
    recordings = read_table(corpus / "table.tsv")
    write_table(corpus / "again.tsv", recordings)
    assert read_table(corpus / "again.tsv") == recordings
    (corpus / "bad.tsv").write_text("id\ttext\n1\thello\n")
    with pytest.raises(ValueError, match="needs a tab-separated column 'path'"):
        read_table(corpus / "bad.tsv")
    (corpus / "empty.tsv").write_text("id\tpath\ttext\n")
    with pytest.raises(ValueError, match="no rows"):
        read_table(corpus / "empty.tsv")


def test_broken_noise_is_left_out(corpus, capsys):
    rows = ["path\tsplit\tkind", "a.flac\ttrain\tnoise", "b.flac\tdev\tnoise", "c.flac\ttrain\tnoise"]
    (corpus / "noise.tsv").write_text("\n".join(rows) + "\n")
    assert len(read_noises(corpus / "noise.tsv")) == 1
    assert "c.flac" in capsys.readouterr().err


def test_shards_are_split_between_machines(corpus, monkeypatch):
    monkeypatch.setattr("recipes.data.features.SHARD_UTTERANCES", 1)
    arguments = ["recorded", str(corpus / "table.tsv"), str(corpus / "store"), "--copies", "1", "--workers", "1"]

    class Serial:
        """Stands in for the process pool, so that the patched shard size holds."""

        def __init__(self, *args):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def imap_unordered(self, job, shards):
            return map(job, [s for s in shards if s < 2])

    monkeypatch.setattr("multiprocessing.context.SpawnContext.Pool", Serial)
    main([*arguments, "--shard_index", "1", "--shard_count", "2"])
    names = [
        json.loads(line)["id"]
        for f in sorted((corpus / "store").glob("*.jsonl"))
        for line in f.read_text().splitlines()
    ]
    assert names == ["b#0"]


def test_lhotse_cuts_are_a_table(tmp_path):
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed")
    soundfile.write(tmp_path / "talk.wav", np.sin(np.arange(48000)) * 0.1, 16000)
    recording = lhotse.Recording.from_file(tmp_path / "talk.wav", recording_id="talk")
    supervision = lhotse.SupervisionSegment("talk-1", "talk", start=0, duration=1.0, text="hello there", speaker="ann")
    cut = lhotse.MonoCut("cut-1", start=1.0, duration=1.0, channel=0, recording=recording, supervisions=[supervision])
    lhotse.CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl.gz")
    (found,) = read_table(tmp_path / "cuts.jsonl.gz")
    assert (found.id, found.speaker, found.text) == ("cut-1", "ann", "hello there")
    assert len(found.wave()) == 16000


@pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed")
def test_synthetic_audio_with_written_text(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("Hello, Mr. Smith!\nIs it 5 o'clock?\n")
    arguments = ["synthetic", str(tmp_path / "text.txt"), str(tmp_path / "out"), "--voices", "flite", "--workers", "1"]
    assert main([*arguments, "--hours", "0.001", "--format", "flac"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "table.tsv")
    recordings = read_table(tmp_path / "out" / "table.tsv")
    assert {r.text for r in recordings} == {"Hello, Mr. Smith!", "Is it 5 o'clock?"}
    assert all(r.speaker.startswith("flite:") and 0.5 < len(r.wave()) / 16000 < 5 for r in recordings)
    before = [r.wave() for r in recordings]
    shutil.rmtree(tmp_path / "out")
    main([*arguments, "--hours", "0.001", "--format", "flac"])
    assert all(np.array_equal(a, r.wave()) for a, r in zip(before, recordings, strict=True))


@pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed")
def test_written_text_can_be_normalised(tmp_path):
    (tmp_path / "text.txt").write_text("Hello, Mr. Smith!\nIs it 5 o'clock?\n")
    arguments = ["synthetic", str(tmp_path / "text.txt"), str(tmp_path / "out"), "--voices", "flite", "--normalise"]
    assert main([*arguments, "--hours", "0.001", "--workers", "1"]) == 0
    assert [e.text for e in FeatureStore(tmp_path / "out").examples] == ["hello mr smith"]
