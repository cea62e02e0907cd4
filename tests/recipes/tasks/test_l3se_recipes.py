"""The four stages of L3-SE on data made on the spot: each trains, resumes and builds on those before it."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import soundfile
import torch
from hydra.errors import InstantiationException

from asr.ctc.encoder import EncoderConfig
from enhance.l3se.codec import WavCodec
from enhance.l3se.encoder import NIEncoder
from enhance.l3se.system import L3SE
from recipes import train_l3se
from recipes.training.build import compose, trainer_of

CODEC = ["model.codec.groups=2", "model.codec.channels=16", "model.codec.layers=1"]
LM = [f"model.language_model.{field}" for field in ("width=16", "layers=1", "heads=2", "feed_forward=16")]
PAIRS = ["task.batch=2", "task.validation_pairs=3"]
EXTRA = {
    "codec": [*CODEC, *PAIRS, "task.crop_seconds=0.4", "task.adversarial_from=1", "model.discriminators.channels=2"],
    "semantic": ["task.batch_seconds=5", "task.validation_utterances=2"],
    "encoder": PAIRS,
    "lm": [*LM, *PAIRS],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Recordings, a tiny recogniser as backbone, and the pairs written by the program."""
    from asr.ctc.model import CTCModel
    from asr.text.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("l3se")
    rng = np.random.default_rng(0)
    rows = ["id\tpath\tspeaker\ttext"]
    for number in range(4):
        time = np.arange(33_000 + 1000 * number) / 16_000
        wave = 0.1 * np.sin(2 * np.pi * (150 + 60 * number) * time) * (np.sin(9 * time) > -0.5)
        soundfile.write(folder / f"s{number}.wav", wave + 1e-3 * rng.standard_normal(len(wave)), 16_000)
        rows.append(f"s{number}\ts{number}.wav\t{number % 2}\thello world")
    (folder / "speech.tsv").write_text("\n".join(rows) + "\n")
    (folder / "noise").mkdir()
    soundfile.write(folder / "noise" / "n.wav", 0.1 * rng.standard_normal(24_000), 16_000)
    torch.manual_seed(0)
    sizes = EncoderConfig(width=32, heads=2, layers=(1, 1, 1), feed_forward=32, front_channels=4)
    CTCModel.create(sizes, Tokenizer.train(["hello world"] * 4, vocabulary=40)).save_pretrained(folder / "ctc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECH_DATA", str(folder))
        patch.setenv("RUNS", str(folder / "runs"))
        speech, noise = str(folder / "speech.tsv"), str(folder / "noise")
        sources = ["--speech", speech, "--noise", noise, "--dev_speech", speech, "--dev_noise", noise]
        patch.setattr(train_l3se, "DEV_PAIRS", 3)
        options = ["--hours", "0.002", "--seconds", "0.8", "--workers", "1"]
        assert train_l3se.main(["pairs", *sources, *options]) == 0
        yield folder


def run(home, stage, steps, *overrides):
    """Train a stage up to a step; its metrics.jsonl as rows."""
    common = [
        f"trainer.steps={steps}", "trainer.progress=false", "trainer.log_every=1",
        "trainer.checkpoint_every=2", f"model.backbone.name={home / 'ctc'}", f"data_folder={home}",
    ]  # fmt: skip
    if stage in ("encoder", "lm"):
        common.append(f"task.semantic={model(home, 'semantic')}")
    if stage == "semantic":
        common += [f"task.table={home / 'speech.tsv'}", f"task.validation={home / 'speech.tsv'}"]
    config = compose([f"experiment=l3se_{stage}", *common, *EXTRA[stage], *overrides])
    trainer_of(config).fit()
    lines = (home / "runs" / config.name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def trained(home):
    """All four stages, each stopped at step 2 and resumed to step 4."""
    rows = {}
    for stage in EXTRA:
        run(home, stage, 2)
        rows[stage] = run(home, stage, 4)
    return rows


@pytest.mark.parametrize("stage", list(EXTRA))
def test_every_stage_trains_and_resumes(trained, stage):
    steps = [row["step"] for row in trained[stage] if row["split"] == "train"]
    assert steps == [1, 2, 3, 4]
    assert all(np.isfinite(value) for row in trained[stage] for value in row.values() if isinstance(value, float))


def test_what_each_stage_reports(trained):
    last = {stage: [row for row in rows if row["split"] == "validation"][-1] for stage, rows in trained.items()}
    assert {"mel", "codes_used", "layer_0"} <= last["codec"].keys()
    assert {"wer", "cer", "layer_0"} <= last["semantic"].keys()
    assert {"similarity_acoustic", "undistilled_acoustic", "similarity_semantic"} <= last["encoder"].keys()
    assert {"nll", "nll_shuffled", "accuracy"} <= last["lm"].keys()


def test_discriminators_join_at_their_batch_and_are_checkpointed(trained, home):
    rows = [row for row in trained["codec"] if row["split"] == "train"]
    assert ["adversarial" in row for row in rows] == [False, True, True, True]  # also right after resuming at step 2
    state = torch.load(home / "runs" / "l3se_codec" / "last.pt", weights_only=False)
    assert int(state["model"]["batches"]) == 4 and any(name.startswith("discriminators") for name in state["model"])
    exported = WavCodec.from_pretrained(model(home, "codec")).state_dict()
    assert not any(name.startswith("discriminators") for name in exported)


def model(home, stage):
    return home / "runs" / f"l3se_{stage}" / "model"


def test_the_last_stage_exports_the_whole_system(trained, home):
    system = L3SE.from_pretrained(model(home, "lm"))
    assert system.longest == int(0.8 * 16_000)
    wave = 0.1 * torch.randn(1, 9000)
    assert system.enhance(wave).shape == wave.shape
    encoder = NIEncoder.from_pretrained(model(home, "encoder"))
    torch.testing.assert_close(system.encoder.condition(wave[:, :6000]), encoder.condition(wave[:, :6000]))


@pytest.mark.parametrize("heads", ["[acoustic]", "[semantic]"])
def test_arms_with_one_head(trained, home, heads):
    name = f"arm_{heads[1:-1]}"
    run(home, "encoder", 1, f"task.heads={heads}", f"name={name}")
    run(home, "lm", 1, f"task.encoder={home / 'runs' / name / 'model'}", f"name=lm_{name}")
    assert list(L3SE.from_pretrained(home / "runs" / f"lm_{name}" / "model").encoder.heads) == [heads[1:-1]]


def test_the_arm_without_distillation_hears_as_the_backbone(trained, home):
    run(home, "lm", 1, "task.encoder=null", "name=undistilled")
    encoder = L3SE.from_pretrained(home / "runs" / "undistilled" / "model").encoder
    from enhance.l3se.backbone import load_backbone

    wave = torch.randn(1, 4000)
    states, _ = load_backbone(model(home, "codec") / "backbone").eval()(wave)
    # the exported system is in half precision
    torch.testing.assert_close(encoder.backbone(wave)[0][-1], states[-1], atol=2e-2, rtol=2e-2)


def test_fixed_pairs_are_understood_once(trained, home):
    from recipes.training.build import build

    config = compose(["experiment=l3se_lm", f"data_folder={home}", *EXTRA["lm"]])
    task = build(config.task)
    batch = task.load(task.train_batches(0, 0, 1)[0])
    calls = []
    examples = task._examples
    task._examples = lambda *waves: calls.append(1) or examples(*waves)
    first, second = (float(task.loss(task.model.eval(), batch)[0].detach()) for _ in range(2))
    assert len(calls) == 1 and first == pytest.approx(second, rel=1e-2)


def test_memory_gives_back_what_was_computed_also_in_mixed_precision(home):
    from recipes.tasks.enhance import StoredPairs
    from recipes.tasks.l3se.data import Memory

    memory, numbers = Memory(StoredPairs(str(home / "l3se_train"))), torch.tensor([4, 2])
    values = {"z": torch.randn(2, 3, 5), "tokens": torch.randint(0, 4096, (2, 6, 2))}
    memory(numbers, lambda: values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = memory(numbers.flip(0), lambda: pytest.fail("computed again"))
    torch.testing.assert_close(kept["z"], values["z"].flip(0), atol=1e-2, rtol=1e-2)
    assert torch.equal(kept["tokens"], values["tokens"].flip(0))


def test_teachers_on_different_backbones_are_refused(trained, home):
    import shutil

    from recipes.tasks.l3se.data import Teachers

    other = home / "other_semantic"
    shutil.copytree(model(home, "semantic"), other)
    weights = other / "backbone"
    from enhance.l3se.backbone import CompactBackbone

    sizes = EncoderConfig(width=32, heads=2, layers=(1, 1, 1), feed_forward=32, front_channels=4)
    CompactBackbone(dataclasses.asdict(sizes)).save_pretrained(weights)
    with pytest.raises(ValueError, match="different backbones"):
        Teachers(str(model(home, "codec")), str(other), ["acoustic", "semantic"])


def test_a_missing_stage_is_named(home):
    from recipes.tasks.l3se.data import Teachers

    with pytest.raises(FileNotFoundError, match="backbone"):
        Teachers(str(home / "nowhere" / "at" / "all"), None, [])


def test_overrides_reach_their_stage():
    args = train_l3se.parse(["codec", "lm", "codec:trainer.steps=7", "trainer.threads=2", "--wavlm"])
    assert args.stages == ["codec", "lm"]
    first, second = (train_l3se.command(stage, args) for stage in args.stages)
    assert first[2:] == ["recipes.train", "experiment=l3se_codec_wavlm", "trainer.steps=7", "trainer.threads=2"]
    assert second[2:] == ["recipes.train", "experiment=l3se_lm_wavlm", "trainer.threads=2"]
    with pytest.raises(SystemExit):
        train_l3se.parse(["vocoder"])


def test_pairs_are_kept(home, capsys):
    before = (home / "l3se_train" / "pairs.npy").stat().st_mtime_ns
    assert train_l3se.main(["pairs", "--hours", "1"]) == 0
    assert "is there" in capsys.readouterr().err and (home / "l3se_train" / "pairs.npy").stat().st_mtime_ns == before


class Judge:
    """Hears one word a second, and one more where it is loud."""

    def __call__(self, wave):
        return " ".join(["word"] * round(len(wave) / 16_000) + ["loud"] * bool(np.abs(wave).max() > 0.8))


def test_a_codec_goes_on_with_the_same_tokens(trained, home):
    on = ["name=further", f"task.start={model(home, 'codec')}", "task.frozen=[aggregate,down]", "trainer.average=0"]
    run(home, "codec", 2, *on)
    first, second = (WavCodec.from_pretrained(folder) for folder in (model(home, "codec"), home / "runs/further/model"))
    after = second.state_dict()
    moved = {name.split(".")[0] for name, value in first.state_dict().items() if not torch.equal(value, after[name])}
    assert {"up", "decoder"} <= moved and not moved & {"aggregate", "down"}
    with pytest.raises(InstantiationException, match="sizes"):
        run(home, "codec", 2, *on, "name=wider", "model.codec.channels=24")


def test_codec_benchmark_says_what_resynthesis_costs(trained, home, monkeypatch, capsys):
    from recipes.benchmarks import l3se_codec

    monkeypatch.setattr(l3se_codec, "make_judge", lambda name: Judge())
    monkeypatch.setattr(l3se_codec, "make_measures", lambda name: {"estoi": lambda output, clean: 0.5})
    louder = l3se_codec.codec_system
    monkeypatch.setattr(
        l3se_codec, "codec_system", lambda folder: lambda wave: np.ones_like(louder(folder)(wave))
    )
    codec, out = model(home, "codec"), home / "codec_benchmark"
    codecs = ["--codecs", f"500={codec}", f"1000={codec}"]
    assert l3se_codec.main([str(home / "speech.tsv"), *codecs, "--count", "2", "--out", str(out)]) == 0
    rows = json.loads((out / "result.json").read_text())
    assert list(rows) == ["recordings", "500", "1000"] and (out / "curves.png").stat().st_size > 0
    assert rows["recordings"]["more"] == 0 and rows["recordings"]["interval"] == [0, 0]
    # what the judge hears as loud is one word too many in every output
    assert rows["500"]["more"] > 0 and rows["500"]["interval"][0] > 0
    assert rows["500"]["more"] == pytest.approx(rows["500"]["wer"] - rows["recordings"]["wer"])
    assert "500" in capsys.readouterr().out
    assert l3se_codec.main([str(home / "speech.tsv"), "--codecs", "nowhere"]) == 1
    assert "holds no backbone" in capsys.readouterr().err


@pytest.mark.slow
def test_benchmark_has_every_condition_control_and_probe(trained, home, monkeypatch, capsys):
    from recipes.benchmarks import l3se

    monkeypatch.setattr(l3se, "make_judge", lambda name: Judge())
    monkeypatch.setattr(l3se, "costs", lambda models: {name: l3se.cost(model) for name, model in models.items()})
    arguments = [
        "--systems",
        f"joint={model(home, 'lm')}",
        f"twin={model(home, 'lm')}",
        "--codec",
        str(model(home, "codec")),
    ]
    arguments += [
        "--speech",
        str(home / "speech.tsv"),
        "--noise",
        str(home / "noise"),
        "--out",
        str(home / "benchmark"),
    ]
    assert l3se.main([*arguments, "--count", "2", "--noise_count", "1", "--snr", "-5", "5"]) == 0
    result = json.loads((home / "benchmark" / "result.json").read_text())
    grid = ["-5 dB dry", "+5 dB dry", "-5 dB reverberant", "+5 dB reverberant"]
    assert list(result["conditions"]) == ["clean input", *grid, "all up to 0 dB"]
    assert list(result["conditions"]["clean input"]) == ["clean", "codec", "joint", "twin", "joint, no LM"]
    noisy = result["conditions"]["-5 dB dry"]
    assert list(noisy) == ["noisy", "adaptcrn", "joint", "twin", "joint, no LM"]
    # the noisy input, at its peak of 0.9, is the only one that the judge hears as loud
    assert noisy["noisy"]["insertions"] == pytest.approx(1 / 2) and noisy["noisy"]["deletions"] == 0
    assert noisy["noisy"]["halluc"] == pytest.approx(noisy["noisy"]["dwer"])
    assert result["conditions"]["clean input"]["clean"]["dwer"] == 0
    assert result["hallucination_minus_first"]["-5 dB dry"]["twin"] == [0.0, 0.0]
    cells = [result["conditions"][f"-5 dB {room}"]["noisy"]["dwer"] for room in ("dry", "reverberant")]
    assert result["conditions"]["all up to 0 dB"]["noisy"]["dwer"] == pytest.approx(sum(cells) / 2)
    assert result["hallucination_minus_first"]["all up to 0 dB"]["noisy"][0] >= 0
    assert set(result["log_likelihood"]["joint"]) == {"own", "shuffled", "drop", "utterances"}
    assert result["words_a_second_in_noise"]["noisy"] == pytest.approx(7 / 6)
    assert result["cost"]["joint"]["rtf"] > 0 and "halluc" in capsys.readouterr().out
    assert l3se.main([*arguments[:1], "joint=nowhere/at/all", *arguments[3:]]) == 1
    assert "recipes.train" in capsys.readouterr().err


def test_timbre_tells_voices_apart():
    from recipes.evaluation.judging import similarity, timbre

    time = np.arange(32_000) / 16_000
    voices = [
        sum(np.sin(2 * np.pi * f * k * time) / k**tilt for k in range(1, 20)) for f, tilt in ((110, 1.5), (220, 0.3))
    ]
    low, high = (0.05 * np.asarray(voice, np.float32) for voice in voices)
    measure = similarity(timbre)
    assert measure(0.5 * low, low) > 0.99 > measure(high, low) + 0.05


def test_judges_that_others_made_and_the_voice_they_hear(monkeypatch):
    from types import SimpleNamespace

    from recipes.evaluation.judging import make_judge, make_measures

    def transcribe(wave, **options):
        return iter([SimpleNamespace(text=f" {len(wave)} samples")]), None

    package = SimpleNamespace(WhisperModel=lambda place, **options: SimpleNamespace(transcribe=transcribe))
    monkeypatch.setitem(sys.modules, "faster_whisper", package)
    assert make_judge("faster-whisper:base")(np.zeros(160, np.float32)) == "160 samples"

    encoder = SimpleNamespace(embed_utterance=lambda wave: np.array([wave.mean(), 1.0]))
    monkeypatch.setitem(sys.modules, "resemblyzer", SimpleNamespace(VoiceEncoder=lambda *a, **k: encoder))
    measure = make_measures("resemblyzer")["speaker"]
    assert measure(np.ones(4), np.ones(4)) > 0.99 > measure(np.ones(4), -np.ones(4)) + 0.9
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    with pytest.raises(ValueError, match="pip install resemblyzer"):
        make_measures("resemblyzer")
