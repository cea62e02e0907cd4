"""Making pairs: repeatable, resumable, counted."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dlm import synthesize
from dlm.confusions import ConfusionChannel, replacements
from dlm.hypotheses import NO_DIFFICULTIES, Difficulties, Hypothesiser, dropout
from dlm.tts import Ranges, Utterance, Voice


class Whistle:
    """A fake engine: each letter is a tone; it cannot say "mute"."""

    ranges = Ranges(pitch=(0.75, 1.3))

    def voices(self):
        return [Voice("whistle", "low"), Voice("whistle", "high")]

    def available(self):
        return True

    def synthesize(self, utterances: list[Utterance]):
        return [None if u.text == "mute" else self._wave(u) for u in utterances]

    def _wave(self, utterance: Utterance) -> np.ndarray:
        base = 200 if utterance.voice.name == "low" else 300
        time = np.arange(1600) / 16000
        tones = [np.sin(2 * np.pi * utterance.pitch * (base + 50 * (ord(c) % 32)) * time) for c in utterance.text]
        return np.concatenate(tones).astype(np.float32) * 0.3


@pytest.fixture
def settings(tmp_path, tiny_ctc_model):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(["hello world", "how are you", "mute", "a world", "hello you", "are you how"]) + "\n")
    source = {
        "_target_": "dlm.synthesize.SpokenText",
        "text": str(text),
        "engines": [{"_target_": f"{__name__}.Whistle"}],
        "seed": 3,
    }
    return {
        "out": str(tmp_path / "pairs"),
        "source": source,
        "difficulties": {"_target_": "dlm.hypotheses.Difficulties", "dropout": [0.1, 0.4]},
        "models": [str(tiny_ctc_model)],
        "nbest": 3,
        "bf16": False,
        "device": "cpu",
        "seed": 3,
        "shard_size": 2,
        "shard_index": 0,
        "shard_count": 1,
        "workers": 1,
    }


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Shards are made by worker processes; here they are threads, which find the fake engine."""
    from multiprocessing.pool import ThreadPool

    class Context:
        Pool = staticmethod(lambda workers, start, arguments: ThreadPool(1, start, arguments))

    monkeypatch.setattr(synthesize.multiprocessing, "get_context", lambda method: Context)
    monkeypatch.setattr(synthesize.signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(synthesize, "_worker", {})
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Whistle.__module__])


def read(folder: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(Path(folder).glob("*.jsonl"))}


def test_pairs_and_manifest(settings):
    manifest = synthesize.synthesize(settings)
    shards = read(settings["out"])
    rows = [json.loads(line) for text in shards.values() for line in text.splitlines()]
    assert sorted(shards) == ["00000.jsonl", "00001.jsonl", "00002.jsonl"]
    assert sorted(row["text"] for row in rows) == sorted(
        ["hello world", "how are you", "a world", "hello you", "are you how"]
    )
    assert {row["voice"] for row in rows} <= {"whistle:low", "whistle:high"}
    for row in rows:
        texts = [text for text, _ in row["hypotheses"]]
        assert 1 <= len(texts) <= 3 and len(set(texts)) == len(texts)
        assert all(score <= 0 for _, score in row["hypotheses"])
    assert manifest["pairs"] == 5 and manifest["words"] == 12 and manifest["finished_shards"] == 3
    assert manifest["wer"] == pytest.approx(
        sum(manifest[kind] for kind in ("substitutions", "insertions", "deletions")) / 12
    )
    assert sum(manifest["voices"].values()) == 5


def test_a_lost_shard_comes_back_the_same(settings):
    synthesize.synthesize(settings)
    before = read(settings["out"])
    Path(settings["out"], "00001.jsonl").unlink()
    Path(settings["out"], ".00001.jsonl.99.tmp").write_text("half a li")
    kept = Path(settings["out"], "00000.jsonl").stat().st_mtime_ns
    synthesize.synthesize(settings)
    assert read(settings["out"]) == before
    assert Path(settings["out"], "00000.jsonl").stat().st_mtime_ns == kept


def test_machines_share_the_work(settings, tmp_path):
    synthesize.synthesize(settings)
    for index in (0, 1):
        synthesize._worker.clear()
        half = {**settings, "out": str(tmp_path / "shared"), "shard_index": index, "shard_count": 2, "workers": 2}
        synthesize.synthesize(half)
    assert read(tmp_path / "shared") == read(settings["out"])


def test_any_recogniser_may_listen(settings):
    manifest = synthesize.synthesize({**settings, "decoder": "greedy"})
    rows = [json.loads(line) for text in read(settings["out"]).values() for line in text.splitlines()]
    assert manifest["pairs"] == len(rows) == 5 and manifest["wer_by_engine"] == {"whistle": round(manifest["wer"], 4)}
    assert all(len(row["hypotheses"]) == 1 and 0.4 < row["seconds"] < 2 for row in rows)


def test_a_store_has_no_sound(settings):
    source = {"_target_": "dlm.synthesize.StoredSpeech", "store": {"_target_": "types.SimpleNamespace", "examples": []}}
    with pytest.raises(ValueError, match="features only"):
        synthesize.synthesize({**settings, "decoder": "ar", "source": source})


def test_other_settings_are_refused(settings):
    synthesize.synthesize(settings)
    with pytest.raises(ValueError, match="made with other nbest, seed"):
        synthesize.synthesize({**settings, "seed": 4, "nbest": 2})


def test_seed_changes_the_pairs(settings, tmp_path):
    synthesize.synthesize(settings)
    synthesize._worker.clear()
    other = {**settings, "out": str(tmp_path / "other"), "seed": 4, "source": {**settings["source"], "seed": 4}}
    synthesize.synthesize(other)
    assert read(tmp_path / "other") != read(settings["out"])


def test_stored_features_are_a_source(settings, tmp_path):
    from recipes.data.store import write_shard

    features = [np.random.default_rng(i).standard_normal((60 + i, 80)) for i in range(4)]
    examples = [{"id": f"u{i}", "text": "hello", "speaker": "s"} for i in range(4)]
    write_shard(tmp_path / "store", 0, examples, features)
    store = {"_target_": "recipes.data.store.FeatureStore", "folder": str(tmp_path / "store")}
    source = {"_target_": "dlm.synthesize.StoredSpeech", "store": store, "utterances": 2}
    manifest = synthesize.synthesize({**settings, "source": source})
    rows = [json.loads(line) for line in read(settings["out"])["00000.jsonl"].splitlines()]
    assert [(row["id"], row["voice"], row["seconds"]) for row in rows] == [("u0", "s", 0.6), ("u2", "s", 0.62)]
    assert manifest["pairs"] == 2


def test_command_line(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "dlm.synthesize", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])

    assert "shard_count" in run("--help").stdout
    missing = run(f"out={tmp_path / 'out'}")
    assert missing.returncode == 2 and "source.text" in missing.stderr and "Traceback" not in missing.stderr


# -- hypotheses --------------------------------------------------------------------------------------------


def test_difficulties_change_hypotheses_and_nothing_else(tiny_ctc_model):
    torch.manual_seed(0)
    features = [torch.randn(90, 80), torch.randn(40, 80)]
    calm = Hypothesiser([tiny_ctc_model], NO_DIFFICULTIES, nbest=2, bf16=False)
    hard = Hypothesiser([tiny_ctc_model], Difficulties((0.5, 0.5)), nbest=2, bf16=False)
    assert calm(features, (1, 0)) == calm(features, (2, 0))
    assert hard(features, (1, 0)) == hard(features, (1, 0)) != hard(features, (2, 0))
    model = calm.models[0]
    with dropout(model, 0.3):
        assert model.encoder.dropout.probability == 0.3 and model.encoder.dropout.training
    assert not any(module.training for module in model.modules())


def test_first_hypothesis_is_greedy(tiny_ctc_model):
    from asr.ctc.beam import greedy
    from asr.ctc.model import CTCModel

    torch.manual_seed(1)
    features = [torch.randn(n, 80) for n in (120, 64, 90)]
    nbests = Hypothesiser([tiny_ctc_model], NO_DIFFICULTIES, nbest=3, batch_frames=130, bf16=False)(features, (0,))
    model = CTCModel.from_pretrained(tiny_ctc_model).eval()
    for feature, nbest in zip(features, nbests, strict=True):
        with torch.inference_mode():
            best = greedy(*model(feature[None], torch.tensor([len(feature)])), model.tokenizer)[0]
        assert nbest[0][0] == best.text


# -- confusions --------------------------------------------------------------------------------------------


def test_replacements_keep_a_character_on_either_side():
    assert replacements("the cap sat", "the cat sat") == [("at ", "ap ")]
    assert replacements("cat sat", "the cat sat") == [(" the c", " c")]
    assert replacements("a be", "a b") == [("b ", "be ")]
    assert replacements("same", "same") == []


def test_channel_repeats_what_it_saw():
    pairs = [("he laft", "he laught")] * 3 + [("he laught", "he laught"), ("laft", "laught")]
    channel = ConfusionChannel.estimate(pairs)
    rng = np.random.default_rng(0)
    outcomes = {channel.corrupt("they laught aloud", 1.0, rng) for _ in range(50)}
    assert outcomes == {"they laught aloud", "they laft aloud"}
    assert channel.corrupt("they laught aloud", 0.0, rng) == "they laught aloud"
    assert channel.corrupt("nothing known", 5.0, rng) == "nothing known"
    share = np.mean([channel.corrupt("he laught", 1.0, rng) == "he laft" for _ in range(400)])
    assert share == pytest.approx(0.8, abs=0.08)


def test_channel_needs_mistakes():
    with pytest.raises(ValueError, match="none of 1 pairs"):
        ConfusionChannel.estimate([("right", "right")])
