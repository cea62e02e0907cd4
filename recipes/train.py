"""Train a system.

    python -m recipes.train experiment=debug                     # seconds on a CPU, synthetic data
    python -m recipes.train experiment=ctc_compact               # the recogniser that ships
    python -m recipes.train experiment=ctc_compact trainer.steps=200 name=try
    torchrun --nproc_per_node=8 -m recipes.train experiment=ctc_librispeech960
    python -m recipes.train experiment=dllm_asr_llada8b --dry_run   # parameters and memory, nothing loaded

Any field can be overridden as `group.field=value`; `--cfg job` prints the configuration. The run folder is
outputs/NAME, and starting the same command again resumes it.
"""

from __future__ import annotations

import logging
import sys

import hydra
from omegaconf import DictConfig

from recipes.training.build import CONFIG_FOLDER, as_text, compose, trainer_of


@hydra.main(config_path=CONFIG_FOLDER, config_name="config", version_base="1.3")
def train(config: DictConfig) -> None:
    logging.getLogger(__name__).info("configuration:\n%s", as_text(config))
    trainer_of(config).fit()


def dry_run(overrides: list[str]) -> int:
    """Print the size of what the same command would train."""
    from recipes.training.dry_run import report

    print(report(compose(overrides)))
    return 0


def main() -> int:
    try:
        if "--dry_run" in sys.argv:
            return dry_run([argument for argument in sys.argv[1:] if argument != "--dry_run"])
        train()
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
