"""Training on two processes (gloo), with whole and with split weights."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from asr.audio.augment import seeded
from recipes.data.toy import say, sentences
from recipes.training.engine import Trainer, TrainerConfig
from recipes.training.optimisation import Optimisation
from recipes.training.toy_parts import language_model, whisper

pytestmark = pytest.mark.slow
TOY = ["experiment=debug", "model.width=32", "task.utterances=60", "optim.decay=1e-6"]
SHARD = ["trainer.shard=true", "trainer.average=0"]


def two_processes(runs, name, steps, *options):
    """Losses of each step of a run on two processes, in the folder `runs`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    settings = [f"name={name}", f"trainer.steps={steps}", "trainer.log_every=1", "trainer.progress=false"]
    command = [*launcher, "-m", "recipes.train", *options, *settings]
    environment = {**os.environ, "RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0 and "2 x cpu" in result.stderr, result.stderr
    lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


def test_two_processes_train_and_resume(tmp_path):
    two_processes(tmp_path, "resumed", 3, *TOY)
    assert two_processes(tmp_path, "resumed", 6, *TOY) == two_processes(tmp_path, "whole", 6, *TOY)


def test_split_weights_give_the_losses_of_whole_ones_and_go_on_as_such(tmp_path):
    """A sharded run, its resumption, and its resumption without shards against a run that was never sharded."""
    whole = two_processes(tmp_path, "whole", 6, *TOY, "trainer.average=0")
    two_processes(tmp_path, "split", 2, *TOY, *SHARD)
    two_processes(tmp_path, "split", 4, *TOY, *SHARD)
    assert two_processes(tmp_path, "split", 6, *TOY, "trainer.average=0") == pytest.approx(whole, rel=1e-4)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "split")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-3) for key in weights[0])


def test_a_large_model_with_adapters_trains_split(tmp_path):
    """Frozen layers, LoRA and gradient checkpointing under FSDP: the same losses as with replicated weights."""
    torch.manual_seed(0)
    rng = seeded(0)
    texts, rows = sentences(100, rng), ["id\tpath\ttext"]
    for i, text in enumerate(texts[:12]):
        soundfile.write(tmp_path / f"{i}.wav", say(text, rng), 16000)
        rows.append(f"{i}\t{i}.wav\t{text}")
    table = tmp_path / "table.tsv"
    table.write_text("\n".join(rows) + "\n")
    whisper(tmp_path / "whisper")
    language_model(tmp_path / "llama", "llama", texts, chat=True)
    options = ["experiment=dllm_asr_llada8b", "data=table", f"data.train={table}", f"data.validation={table}"]
    options += ["data.batch_seconds=4", "data.shortest=0.1", "data.validation_utterances=2", "task.init=null"]
    for part, name in (("encoder", "whisper"), ("language_model", "llama")):
        options += [f"model.{part}.name={tmp_path / name}", f"model.{part}.precision=float32", f"model.{part}.config="]
        options[-1] += "null"
    options += ["model.language_model.mask_token=null", "model.language_model.end_token=null", "trainer.precision='no'"]
    whole = two_processes(tmp_path, "whole", 3, *options, "trainer.average=0")
    assert two_processes(tmp_path, "split", 3, *options, *SHARD) == pytest.approx(whole, rel=1e-4)
    assert np.isfinite(whole).all() and (tmp_path / "split" / "model" / "config.json").exists()


@pytest.mark.parametrize("options", [{"average": 0.9}, {"average": 0.0}])
def test_splitting_says_what_it_needs(tmp_path, options):
    class Task:
        model, loss = torch.nn.Linear(2, 2), None

    with pytest.raises(ValueError, match="average=0" if options["average"] else "torchrun"):
        Trainer(Task(), TrainerConfig(shard=True, **options), Optimisation(), tmp_path)
