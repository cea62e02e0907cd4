"""Every experiment composes, and the training program runs and resumes as a process."""

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


def test_debug_experiment_runs_and_resumes(train_and_resume):
    train_and_resume("debug", ["model.width=32", "task.utterances=40"])


def test_transformers_is_not_hidden_by_our_kernels_folder():
    """A folder named kernels must not stand in for the package of that name which transformers may look for."""
    import transformers.models.whisper  # noqa: F401
