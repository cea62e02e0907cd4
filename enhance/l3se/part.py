"""Saving and loading of the parts of L3-SE."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from torch import nn

from asr.hub import HubModel


class Part(nn.Module, HubModel):
    """A part with `from_pretrained`, `save_pretrained` and `save_half`; its arguments are JSON values.

    Attributes:
        stage: the experiment that trains it.
    """

    stage: str

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options) -> Self:
        """Load in evaluation mode.

        Raises:
            FileNotFoundError: a local folder that holds no model.
        """
        if not (Path(folder) / "config.json").exists() and not _may_be_hub_id(folder):
            raise FileNotFoundError(
                f"{folder} holds no {cls.__name__}: train it with python -m recipes.train experiment={cls.stage}"
            )
        return super().from_pretrained(folder, **options).eval()

    @property
    def arguments(self) -> dict:
        """What it was made with."""
        return dict(self._hub_mixin_config)


def _may_be_hub_id(name: str | Path) -> bool:
    path = Path(name)
    return not path.is_absolute() and not path.exists() and len(path.parts) == 2
