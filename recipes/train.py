"""Train a system.

    python -m recipes.train experiment=debug                     # seconds on a CPU, synthetic data
    python -m recipes.train experiment=ctc_compact               # a small Conformer
    python -m recipes.train experiment=ctc_compact trainer.steps=200 name=try
    torchrun --nproc_per_node=8 -m recipes.train experiment=ctc_librispeech960
    python -m recipes.train experiment=dllm_asr_llada8b --dry_run   # parameters and memory, nothing loaded

Any field can be overridden as `group.field=value`; `--cfg job` prints the configuration. The run folder is
outputs/NAME, and starting the same command again resumes it.
"""

from __future__ import annotations

import logging
import re
import sys
import textwrap
from pathlib import Path

import hydra
from omegaconf import DictConfig

from asr.console.program import UsageError, complain, emit, program, program_name, reason
from recipes.training.build import CONFIG_FOLDER, as_text, compose, trainer_of

EXPERIMENTS = sorted(path.stem for path in (Path(CONFIG_FOLDER) / "experiment").glob("*.yaml"))
INFORMATION = ("--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc")


def check_arguments(arguments: list[str]) -> None:
    """Refuse what would become a run without a name or a model.

    Raises:
        UsageError: no experiment or an unknown one, or an empty name.
    """
    if any(argument.split("=")[0] in INFORMATION for argument in arguments):
        return
    given = dict(re.findall(r"^\+*(experiment|name|task)\b[^=]*=(.*)$", "\n".join(arguments), re.MULTILINE))
    known = f"choose one of {', '.join(EXPERIMENTS)}"
    if "experiment" not in given and "task" not in given:
        raise UsageError(f"experiment=NAME is needed: {known}")
    for name in given.get("experiment", "debug").split(","):
        if name.strip() not in EXPERIMENTS:
            raise UsageError(f"experiment={name} is unknown: {known}")
    if given.get("name", "given").strip("'\" ") in ("", "null"):
        raise UsageError("name= is empty: it names the folder of the run, outputs/NAME")


@hydra.main(config_path=CONFIG_FOLDER, config_name="config", version_base="1.3")
def train(config: DictConfig) -> None:
    try:
        trainer = trainer_of(config)
        logging.getLogger(__name__).info("configuration:\n%s", as_text(config))
        trainer.fit()
    except (UsageError, hydra.errors.InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, hydra.errors.InstantiationException) else error
        if not isinstance(cause, (ValueError, OSError, ImportError)):  # what a user can mend
            raise
        complain(f"recipes.train: {reason(cause)}")
        sys.exit(2)


def dry_run(overrides: list[str]) -> int:
    """Print the size of what the same command would train."""
    from recipes.training.dry_run import report

    emit(report(compose(overrides)) + "\n")
    return 0


def help_text() -> str:
    """What --help prints; Hydra's own, which composes everything first, takes three times as long."""
    names = textwrap.fill(", ".join(EXPERIMENTS), 100, initial_indent="  ", subsequent_indent="  ")
    usage = f"usage: {program_name('recipes.train')} experiment=NAME [group.field=value ...]"
    rest = "--cfg job prints the whole configuration of a command; --hydra-help names more such options."
    return f"{usage}\n\n{__doc__}\nexperiments:\n{names}\n\n{rest}\n"


@program
def main() -> int:
    if {"--help", "-h"} & set(sys.argv[1:]):
        emit(help_text())
        return 0
    arguments = [argument for argument in sys.argv[1:] if argument != "--dry_run"]
    try:
        check_arguments(arguments)
        if "--dry_run" in sys.argv:
            return dry_run(arguments)
        train()
    except UsageError as error:
        complain(f"recipes.train: {error}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted; the same command continues from the last checkpoint")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
