"""Train a system.

    python -m recipes.train experiment=debug                     # seconds on a CPU, synthetic data
    python -m recipes.train experiment=ctc_compact               # the recogniser that ships
    python -m recipes.train experiment=ctc_compact trainer.steps=200 name=try
    torchrun --nproc_per_node=8 -m recipes.train experiment=ctc_librispeech960

Any field can be overridden as `group.field=value`; `--cfg job` prints the configuration. The run folder is
outputs/NAME, and starting the same command again resumes it.
"""

from __future__ import annotations

import logging
import sys

import hydra
from omegaconf import DictConfig

from recipes.build import CONFIG_FOLDER, as_text, trainer_of


@hydra.main(config_path=CONFIG_FOLDER, config_name="config", version_base="1.3")
def train(config: DictConfig) -> None:
    logging.getLogger(__name__).info("configuration:\n%s", as_text(config))
    trainer_of(config).fit()


def main() -> int:
    try:
        train()
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
