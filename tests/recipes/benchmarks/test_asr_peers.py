"""The benchmark of recognisers on tiny random models and on stand-ins for optional packages."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from recipes import benchmark
from recipes.benchmarks import asr_peers
from recipes.benchmarks.asr_peers import Heard, Noisy, shown, summarise
from recipes.evaluation.recognisers import Choice


@pytest.fixture
def table(tmp_path):
    """Two recordings that can be read and one that cannot, and noise."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "noise"):
        soundfile.write(tmp_path / f"{name}.flac", 0.1 * rng.standard_normal(16000), 16000)
    (tmp_path / "c.flac").write_bytes(b"fLaC nonsense")
    rows = [f"{name}-1\t{name}.flac\tHello world. How are you?" for name in "abc"]
    (tmp_path / "table.tsv").write_text("id\tpath\ttext\n" + "\n".join(rows) + "\n")
    (tmp_path / "noise.tsv").write_text("path\tsplit\tkind\nnoise.flac\tdev\tnoise\n")
    return tmp_path / "table.tsv"


def test_systems_side_by_side(table, tiny_ctc_model, tmp_path, capfd):
    out, model = tmp_path / "out", str(tiny_ctc_model)
    arguments = [
        "asr_peers",
        str(table),
        "--systems",
        "greedy",
        f"beam:{model}",
        "--model",
        model,
        "--threads",
        "1",
        "2",
    ]
    noisy = ["--noise", str(tmp_path / "noise.tsv"), "--snr", "5", "--against", "greedy", "--out", str(out)]
    assert benchmark.main([*arguments, *noisy, "--together", "2"]) == 1  # one recording cannot be read
    shown = capfd.readouterr()
    assert "c.flac" in shown.err and "Whisper English" in shown.out and "minus greedy" in shown.out
    found = json.loads((out / "result.json").read_text())
    assert "at 5 dB, 2 at once" in found["about"] and len(found["systems"]) == 2
    greedy = found["systems"]["greedy"]
    assert set(greedy["speed"]) == {"1", "2"} and greedy["speed"]["2"]["rtf"] > 0 < greedy["speed"]["2"]["cpu"]
    assert greedy["speed"]["1"]["memory_mb"] > 50 and greedy["writing"]["utterances"] == 2
    assert (out / "greedy.tsv").read_text().startswith("id\ttext\na-1\t")
    assert (out / "scatter.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "scatter.html").read_text()
    assert "<svg" in page and page.count("<tr>") == 5


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        (["greedy", "greedy"], "one name"),
        (["greedy", "--together", "0"], "at least 1"),
        (["greedy", "--against", "ar"], "not among"),
        (["siri"], "unknown system"),
    ],
)
def test_what_cannot_be_run_is_refused(table, tiny_ctc_model, systems, message, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["asr_peers", str(table), "--model", str(tiny_ctc_model), "--systems", *systems])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_optional_packages_are_named(monkeypatch):
    for module, package in (("faster_whisper", "faster-whisper"), ("pocketsphinx", "pocketsphinx")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ValueError, match=f"{package} is not installed: pip install"):
            Choice(package).load()
    with pytest.raises(ValueError, match="needs a model"):
        Choice("transformers").load()


def test_faster_whisper_gets_folder_and_threads(monkeypatch):
    asked = {}

    class WhisperModel:
        def __init__(self, place, **options):
            asked.update(options, place=place)

        def transcribe(self, wave, **options):
            return iter([SimpleNamespace(text=" Hello"), SimpleNamespace(text=" world.")]), None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=WhisperModel))
    system = Choice("faster-whisper:models/ct2-tiny.en", threads=2).load()
    assert system([np.zeros(16000, np.float32)] * 2) == ["Hello world."] * 2
    assert asked == {"place": "models/ct2-tiny.en", "device": "cpu", "compute_type": "int8", "cpu_threads": 2}


def test_the_batched_pipeline_of_faster_whisper_is_asked_for_batches(monkeypatch):
    def transcribe(wave, **options):
        return iter([SimpleNamespace(text=f" {options['batch_size']}")]), None

    pipeline = SimpleNamespace(transcribe=transcribe)
    parts = {"WhisperModel": lambda place, **options: place, "BatchedInferencePipeline": lambda model: pipeline}
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(**parts))
    assert Choice("faster-whisper-batched:tiny.en").load()([np.zeros(160, np.float32)]) == ["8"]


def test_recordings_heard_together_share_the_time_by_length():
    waves, heard = [np.zeros(n, np.float32) for n in (100, 300)], Heard(["before"], [1.0], 1.0)
    asr_peers.hear(lambda waves: ([f"{len(wave)}" for wave in waves], 2.0, 1.5), waves, heard)
    assert heard.texts == ["before", "100", "300"] and heard.spent == [1.0, 0.5, 1.5] and heard.worked == 2.5


def test_labels_tell_folders_apart():
    assert Choice("ar:outputs/hybrid_tiny/model").label == "ar:hybrid_tiny"
    assert Choice("faster-whisper:/models/ct2-base").label == "faster-whisper:ct2-base"
    assert Choice("beam").label == "beam"


def test_noise_has_its_level_and_is_the_same_for_every_system():
    rng = np.random.default_rng(0)
    wave = rng.standard_normal(16000).astype(np.float32)
    noisy = Noisy([rng.standard_normal(20000).astype(np.float32)], 5.0)
    added = noisy(wave, 3) - wave
    assert 10 * np.log10(np.square(wave).mean() / np.square(added).mean()) == pytest.approx(5, abs=0.5)
    assert np.array_equal(noisy(wave, 3), noisy(wave, 3)) and not np.array_equal(noisy(wave, 3), noisy(wave, 4))
    assert np.array_equal(Noisy([], 5.0)(wave, 0), wave)


def test_summary_against_a_count_by_hand():
    references = ["Hello there.", "How are you?"]
    runs = {
        1: {"good": Heard(references, [0.1, 0.3]), "bad": Heard(["hello", "how were you"], [1, 1])},
        2: {"good": Heard([], [0.1, 0.1], 0.4, 5.0), "bad": Heard([], [1, 1])},
    }
    found = summarise(references, np.array([2.0, 6.0]), runs, ["good"])
    good, bad = found["good"], found["bad"]
    assert good["wer"] == 0 and bad["wer"] == pytest.approx(2 / 5) and bad["raw"]["wer"] == 1.0
    assert good["speed"][1]["rtf"] == pytest.approx(0.05) and good["speed"][2]["memory_mb"] == 5
    assert good["speed"][2]["cpu"] == pytest.approx(0.05)
    short = {"seconds": "0-5 s", "count": 1, "wer": 0.5, "rtf": {1: 0.5, 2: 0.5}, "minus": {"good": (0.5, 0.5)}}
    assert bad["durations"][0] == short and not good["durations"][0]["minus"]
    assert bad["minus"]["good"][0] > 0 and not good["minus"]
    assert good["writing"]["capitalised"] == 1 and bad["writing"]["capitalised"] == 0
    lines = shown(found).splitlines()
    differences = next(line for line in lines if line.startswith("bad minus good"))
    assert "+50.00% to +50.00%" in differences
    heads = next(line for line in lines if line.startswith("writing"))
    assert all(f"F1 of {kind}" in heads for kind in good["writing"]["f1"])


def test_whisper_of_transformers(tmp_path):
    from transformers import WhisperFeatureExtractor

    from recipes.data.toy import sentences
    from recipes.training.toy_parts import writing_whisper

    place = writing_whisper(tmp_path / "whisper", sentences(50, np.random.default_rng(0)))
    WhisperFeatureExtractor(80, chunk_length=4).save_pretrained(place)
    assert isinstance(Choice(f"transformers:{place}").load()([np.zeros(16000, np.float32)])[0], str)


def test_blocks_hold_all_recordings():
    recordings = [SimpleNamespace(wave=lambda i=i: np.full(4, i, np.float32)) for i in range(11)]
    sizes = [len(block) for block in asr_peers.blocks(recordings, Noisy([], 0.0))]
    assert sizes == [8, 3]
    assert [len(block) for block in asr_peers.blocks(recordings, Noisy([], 0.0), 9)] == [9, 2]
