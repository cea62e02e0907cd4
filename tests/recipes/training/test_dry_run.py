"""The size of every experiment on the meta device, and the switch that prints it."""

import sys
from pathlib import Path

import pytest

from recipes.training.build import CONFIG_FOLDER, compose
from recipes.training.dry_run import BYTES, memory, report, sizes

EXPERIMENTS = sorted(path.stem for path in Path(CONFIG_FOLDER, "experiment").glob("*.yaml"))
MILLIONS = {  # from the papers, from the published models, or of our own making
    "ctc_librispeech960": (65, 75), "ctc_librispeech100": (11, 13),
    "denoiser_librispeech960": (50, 65), "ar_librispeech960": (50, 65),
    "writing": (16, 18), "dlm_69m": (65, 73), "dlm_155m": (145, 165), "dlm_484m": (460, 500),
    "dllm_asr_llada8b": (8600, 8800), "ar_asr_large": (8650, 8800), "dllm_asr_large": (280, 420),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_size(name):
    parts = sizes(compose([f"experiment={name}"]))
    total, trained = sum(p.parameters for p in parts) / 1e6, sum(p.trained for p in parts) / 1e6
    assert 0 < trained <= total
    low, high = MILLIONS.get(name, (0, 10_000))
    assert low < total < high


def test_the_papers_parts_have_the_published_sizes():
    parts = {p.name: p for p in sizes(compose(["experiment=dllm_asr_llada8b"]))}
    assert parts["encoder"].parameters == pytest.approx(637e6, rel=0.01) and parts["encoder"].trained == 0
    lora = parts["language_model"].trained
    # rank x (in + out) of q, k, v, o (4096 each way) and gate, up, down (4096 and 12288) in 32 layers
    assert lora == 32 * 16 * (4 * 8192 + 3 * 16384)
    assert parts["language_model"].parameters - lora == pytest.approx(8.016e9, rel=0.001)
    assert parts["projector"].trained == parts["projector"].parameters


def test_memory_adds_up_and_follows_the_precision():
    whole = compose(["experiment=dllm_asr_llada8b"])
    small = compose(["experiment=dllm_asr_llada8b", "model.language_model.precision=4bit"])
    bf16, four = (memory(sizes(config), 0.0) for config in (whole, small))
    frozen = sum(p.parameters - p.trained for p in sizes(whole) if p.name == "language_model")
    assert bf16["weights"] - four["weights"] == pytest.approx(frozen * (BYTES["bfloat16"] - BYTES["4bit"]))
    assert bf16["optimiser"] == 2 * bf16["gradients"] and bf16["average"] == 0
    assert memory(sizes(whole), 0.999)["average"] > 0


def test_the_switch_prints_and_loads_nothing(capsys, monkeypatch, tmp_path):
    from recipes.train import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["recipes.train", "--dry_run", "experiment=debug", "model.width=32"])
    assert main() == 0
    out = capsys.readouterr().out
    assert out.startswith("debug (computed") and "total" in out and "GB" in out
    assert not list(tmp_path.iterdir())
    assert report(compose(["experiment=debug"])) != out.strip()  # width 64


def test_slurm_sweeps_compose_without_their_plugin():
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(CONFIG_FOLDER, version_base="1.3"):
        config = hydra_compose("config", ["hydra/launcher=slurm", "experiment=debug"], return_hydra_config=True)
    assert config.hydra.launcher._target_.endswith("SlurmLauncher") and config.hydra.launcher.gpus_per_node == 1
