"""The one loader that knows every kind of enhancer."""

from __future__ import annotations

import json
from pathlib import Path

from enhance.networks.adaptcrn import AdaptCRN
from enhance.networks.enhancer import Enhancer
from enhance.networks.gtcrn import GTCRN
from enhance.onnx_step import OnnxEnhancer

ARCHITECTURES = {"adaptcrn": AdaptCRN, "gtcrn": GTCRN}


def architecture_of(name: str | Path | None) -> str:
    """The architecture behind whatever names an enhancer: its own name, a folder, a hub id; None is "adaptcrn".

    Raises:
        FileNotFoundError: no such folder or hub id.
    """
    if name is None or str(name) in ARCHITECTURES or str(name) == "l3se":
        return str(name or "adaptcrn")
    return "onnx" if str(name).endswith(".onnx") else _read_architecture(str(name))


def load_enhancer(name: str | Path | None = None) -> Enhancer:
    """The enhancer called by its architecture ("adaptcrn", "gtcrn"), or saved in a folder or under a hub id.

    None and an architecture's name give the model that ships in the package. What a folder or hub id holds
    is read from the `architecture` entry of its config.json. A file *.onnx runs in onnxruntime.

    Raises:
        FileNotFoundError: no such folder, hub id or shipped weights.
        ValueError: the config names an architecture that is not known here.
    """
    if name is None or str(name) in ARCHITECTURES:
        return _architecture(str(name or "adaptcrn")).from_pretrained(None)
    if str(name).endswith(".onnx"):
        return OnnxEnhancer(name)
    return _architecture(_read_architecture(str(name))).from_pretrained(name)


def _architecture(name: str) -> type[Enhancer]:
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture is {name!r}; known are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def _read_architecture(name: str) -> str:
    path = Path(name) / "config.json"
    if not path.exists():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            path = hf_hub_download(name, "config.json")
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise FileNotFoundError(
                f"{name}: neither a folder with a config.json nor a hub id ({error})"
            ) from error
    return json.loads(Path(path).read_text()).get("architecture", "")
