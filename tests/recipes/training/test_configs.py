"""Every experiment composes, and the training program runs and resumes as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.training.build import CONFIG_FOLDER, compose

EXPERIMENTS = sorted(path.stem for path in Path(CONFIG_FOLDER, "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_composes(experiment):
    from omegaconf import OmegaConf

    config = compose([f"experiment={experiment}"])
    OmegaConf.resolve(config)
    assert config.name == experiment and "_target_" in config.task and config.trainer.steps > 0


def test_debug_experiment_runs_and_resumes(tmp_path):
    def run(steps):
        command = [
            sys.executable,
            "-m",
            "recipes.train",
            "experiment=debug",
            f"trainer.steps={steps}",
            "model.width=32",
            "task.utterances=40",
            "trainer.log_every=1",
            "trainer.progress=false",
        ]
        environment = {**os.environ, "RUNS": str(tmp_path), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    first = run(2)
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    second = run(4)
    assert second.returncode == 0 and "from step 2 to 4" in second.stderr, second.stderr
    lines = [json.loads(line) for line in (tmp_path / "debug" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3, 4]


def test_transformers_is_not_hidden_by_our_kernels_folder():
    """A folder named kernels must not stand in for the package of that name which transformers may look for."""
    import transformers.models.whisper  # noqa: F401
