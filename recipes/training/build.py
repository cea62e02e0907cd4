"""The one place where configuration becomes objects; nothing else in the project sees a Hydra object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

CONFIG_FOLDER = str(Path(__file__).parents[2] / "conf")


def compose(overrides: list[str]) -> DictConfig:
    """The configuration that `python -m recipes.train` would run with the same overrides."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(CONFIG_FOLDER, version_base="1.3"):
        return hydra_compose("config", overrides=overrides)


def build(node: DictConfig | dict, **extra: Any) -> Any:
    """Instantiate a node with `_target_`, its children first, lists and dicts as plain Python."""
    from hydra.utils import instantiate

    return instantiate(node, _convert_="all", **extra)


def trainer_of(config: DictConfig):
    """The trainer of a composed configuration, task and all."""
    from recipes.training.engine import Trainer

    settings = build(config.trainer), build(config.optim)  # first, as a task may take long to build
    return Trainer(build(config.task), *settings, Path(config.run_folder))


def as_text(config: DictConfig) -> str:
    return OmegaConf.to_yaml(config, resolve=True)
