"""Every experiment, shrunken: it trains two steps without a network, and an interruption changes no loss.

L3-SE and the correction model have tests of their own (tests/enhance, tests/dlm).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from asr.audio.augment import seeded
from asr.ctc.encoder import EncoderConfig
from asr.ctc.model import CTCModel
from asr.text.tokenizer import Tokenizer
from recipes.data.features import Content
from recipes.data.toy import say, sentences, write_store
from recipes.training.build import CONFIG_FOLDER, compose, trainer_of

TINY_ENCODER = {"width": 32, "heads": 2, "layers": [1, 1, 1], "feed_forward": 64, "front_channels": 4}
TINY_DECODER = {"width": 32, "heads": 2, "layers": 1, "feed_forward": 64}
ELSEWHERE = ("l3se_", "dlm_", "lm_compact", "writing")
NAMES = sorted(path.stem for path in Path(CONFIG_FOLDER, "experiment").glob("*.yaml"))
EXPERIMENTS = [(name, ()) for name in NAMES if not name.startswith(ELSEWHERE)]
EXPERIMENTS += [("dllm_asr_large", ("model=dllm_asr_modernbert",)), ("adaptcrn_compact", ("data=enhance_mixed",))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Everything that experiments read, in one folder: vocabulary, recogniser, recordings, pairs, tiny parts."""
    from recipes.tasks.hybrid import HybridStart
    from recipes.training.toy_parts import language_model, whisper, writing_whisper

    torch.manual_seed(0)
    root, rng = tmp_path_factory.mktemp("made"), seeded(0)
    texts = sentences(200, rng)
    tokenizer = Tokenizer.train(texts, 40)
    (root / "tokenizer.json").write_text(tokenizer.definition)
    CTCModel.create(EncoderConfig(**{**TINY_ENCODER, "layers": (1, 1, 1)}), tokenizer).save_pretrained(root / "ctc")
    (root / "units.json").write_text(Tokenizer.train(texts, 90, written=True).definition)
    (root / "text.txt").write_text("\n".join(texts))
    start = writing_whisper(root / "writing", texts), str(root / "units.json"), str(root / "text.txt")
    HybridStart(*start, at_least=1).model().save_pretrained(root / "hybrid")
    rows = ["id\tpath\tspeaker\ttext"]
    for i, text in enumerate(texts[:12]):
        soundfile.write(root / f"{i}.wav", say(text, rng), 16000)
        rows.append(f"{i}\t{i}.wav\ttoy\t{text}")
    (root / "table.tsv").write_text("\n".join(rows) + "\n")
    _write_pairs(root / "pairs", rng)
    whisper(root / "whisper")
    for kind in ("modernbert", "eurobert", "bert", "llama"):
        language_model(root / kind, kind, texts, chat=kind == "llama")
    return root


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps one precision for the life of a process; experiments differ."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def _write_pairs(folder, rng):
    """Noisy and clean files as `recipes.mix dev` writes them, and the same as a stored set."""
    waves = []
    for kind in ("noisy", "clean"):
        (folder / kind).mkdir(parents=True)
    rows = ["id\tsnr_db\tspeech\tnoise"]
    for i in range(6):
        clean = np.resize(say("abba cab dad face", rng), 16000)
        noisy = clean + 0.05 * rng.standard_normal(16000).astype(np.float32)
        for kind, wave in (("noisy", noisy), ("clean", clean)):
            soundfile.write(folder / kind / f"{i}.wav", 0.5 * wave, 16000)
        waves.append(np.stack((noisy, clean)) * 16000)
        rows.append(f"{i}\t10\ts.wav\tn.wav")
    (folder / "mixture.tsv").write_text("\n".join(rows) + "\n")
    np.save(folder / "pairs.npy", np.stack(waves).clip(-32767, 32767).astype(np.int16))
    (folder / "pairs.json").write_text("{}")


def shrink(config, made):
    """The same experiment with small sizes and the data of `made`."""
    OmegaConf.set_struct(config, False)
    config.trainer.update(steps=2, validate_every=2, checkpoint_every=1, log_every=1, progress=False, threads=1)
    task = config.task
    for key, value in (("init", None), ("tokenizer", str(made / "tokenizer.json")), ("recogniser", str(made / "ctc"))):
        if key in task:
            task[key] = value
    kind = task._target_.rsplit(".", 1)[-1]
    if "encoder" in task:
        task.encoder.update(TINY_ENCODER)
    if "decoder" in task:
        task.decoder.update(TINY_DECODER)
    if kind == "HybridTask":
        start = "hybrid" if "base" in task.start.name else "writing"
        task.start.update(name=str(made / start), units=str(made / "units.json"), sentences=str(made / "text.txt"))
        task.start.at_least = 1
    elif kind == "SlotDenoiserTask":
        task.recogniser = str(made / "hybrid")
    elif kind == "toy_task":
        task.utterances = 40
    elif kind == "EnhanceTask":
        _shrink_enhancement(task, made)
    elif "Large" in kind:
        _shrink_large(task, made)
    if "data" in task:
        _shrink_data(task.data, made, Content("whisper" if kind in ("HybridTask", "SlotDenoiserTask") else "log_mel"))
    return config


def _shrink_data(data, made, content):
    data.update(batch_seconds=5, validation_utterances=4, shortest=0.1)
    if "table" in data._target_:
        data.update(train=str(made / "table.tsv"), validation=str(made / "table.tsv"))
    if "stores" in data:
        data.epoch_hours = 0.005
        for folder in [*(share.folder for share in data.stores), data.validation]:
            write_store(Path(folder), 12, 0, content)


def _shrink_enhancement(task, made):
    pairs = made / "pairs"
    task.update(batch=2, validation=str(pairs), validation_clips=1)
    places = {"folder": str(pairs), "noisy": str(pairs / "noisy"), "clean": str(pairs / "clean")}
    places |= {"speech": [str(pairs / "clean")], "noise": [str(pairs / "noisy")], "size": 4, "seconds": 0.5}
    task.pairs.update({key: value for key, value in places.items() if key in task.pairs})
    if "mixture" in task.pairs:
        task.pairs.mixture.seconds = 0.5


def _shrink_large(task, made):
    language = task.model.language_model
    family = language.config.model_type
    own = {"precision": "float32", "config": None, "mask_token": None, "end_token": None}
    task.model.encoder.update(name=str(made / "whisper"), precision="float32", config=None)
    language.update(name=str(made / {"llada": "llama"}.get(family, family)), **own)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


class Killed(Exception):
    pass


@pytest.mark.parametrize(("name", "overrides"), EXPERIMENTS)
def test_experiment_trains_and_resumes(name, overrides, made, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))

    def trainer(run):
        config = compose([f"experiment={name}", *overrides, f"name={run}"])
        return trainer_of(shrink(config, made)), tmp_path / "runs" / run

    whole, folder = trainer("whole")
    metrics = whole.fit()
    assert np.isfinite(losses(folder)).all() and len(losses(folder)) == 2 and metrics
    assert (folder / "model" / "config.json").exists()

    broken, other = trainer("broken")
    step = broken._train_step

    def killed_before_the_second(batch):
        if broken.step == 1:
            raise Killed
        return step(batch)

    broken._train_step = killed_before_the_second
    with pytest.raises(Killed):
        broken.fit()
    resumed, _ = trainer("broken")
    resumed.fit()
    assert losses(other) == losses(folder)


def test_frozen_parts_are_not_in_checkpoints(made, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS", str(tmp_path))
    config = shrink(compose(["experiment=dllm_asr_llada8b"]), made)
    config.trainer.steps = 1
    trainer_of(config).fit()
    names = torch.load(tmp_path / config.name / "last.pt", weights_only=False)["model"]
    parameters = [name for name in names if not name.startswith(("projector", "ctc"))]
    assert parameters and all("lora_" in name for name in parameters)


def test_a_checkpoint_of_another_model_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS", str(tmp_path))

    def trainer(projector):
        config = shrink(compose(["experiment=dllm_asr_llada8b", "name=one"]), made)
        config.model.projector.kind = projector
        config.trainer.steps = 1
        return trainer_of(config)

    trainer("conv").fit()
    with pytest.raises(ValueError, match="another model"):
        trainer("mlp").fit()


def test_parts_of_a_model_can_be_compiled(made, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled.append(type(module).__name__))
    monkeypatch.setenv("RUNS", str(tmp_path))
    config = shrink(compose(["experiment=debug"]), made)
    config.trainer.compile = ["encoder"]
    trainer_of(config)
    assert compiled == ["Encoder"]
