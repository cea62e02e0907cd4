"""Speech enhancement: adaptive convolution, AdaptCRN and what is needed to use it on files and streams.

The public names are loaded on first use, so that `python -m enhance.denoise --help` does not wait for torch.
"""

from importlib import import_module

_HOME = {
    "AdaptCRN": "networks.adaptcrn",
    "AdaptCRNConfig": "networks.adaptcrn",
    "AdaptiveConv2d": "networks.adaptive",
    "Denoiser": "denoiser",
    "Enhancer": "networks.enhancer",
    "GTCRN": "networks.gtcrn",
    "GTCRNConfig": "networks.gtcrn",
    "StreamingDenoiser": "streaming",
    "adapt_convolutions": "networks.adapt",
    "load_enhancer": "loading",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'enhance' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"enhance.{_HOME[name]}"), name)
