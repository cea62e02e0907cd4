"""Quality of enhanced speech: SI-SNR, wide-band PESQ, STOI, extended STOI and DNSMOS.

Every metric is a function of waveforms [samples] at 16 kHz. PESQ, STOI and DNSMOS come from the packages
`pesq`, `pystoi` and `speechmos` (extra "metrics"); what is not installed is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec

import numpy as np

SAMPLING_RATE = 16_000
INTRUSIVE = ("si_snr", "pesq", "stoi", "estoi")  # need the clean reference
PACKAGES = {"pesq": "pesq", "stoi": "pystoi", "estoi": "pystoi", "dnsmos": "speechmos"}

Metric = Callable[[np.ndarray, np.ndarray], float]


def require(purpose: str, *packages: str) -> None:
    """Raises ImportError: a package is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise ImportError(f"{purpose} needs the package {package}: pip install {package}")


def si_snr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-noise ratio in dB (Le Roux et al. 2019)."""
    import torch

    from enhance.losses import si_snr as ratio

    return float(ratio(torch.from_numpy(estimate).double(), torch.from_numpy(reference).double()))


def pesq(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Wide-band PESQ (ITU-T P.862.2), -0.5 .. 4.64; NaN for silence and where it finds no utterance."""
    import pesq as package

    if not (estimate.any() and reference.any()):
        return float("nan")
    try:
        return float(package.pesq(SAMPLING_RATE, reference, estimate, "wb"))
    except (package.PesqError, ZeroDivisionError, ValueError):
        return float("nan")


def stoi(estimate: np.ndarray, reference: np.ndarray, extended: bool = False) -> float:
    """Short-time objective intelligibility (Taal et al. 2011; extended: Jensen & Taal 2016), up to 1.

    NaN where there is too little speech: it needs 30 frames (0.4 s) that are not silent.
    """
    import warnings

    from pystoi import stoi as measure

    if not reference.any():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and returns 1e-5
        try:
            return float(measure(reference, estimate, SAMPLING_RATE, extended=extended))
        except (RuntimeWarning, ValueError):
            return float("nan")


def metric_functions(names: Iterable[str] = INTRUSIVE) -> dict[str, Metric]:
    """The intrusive metrics of these names whose packages are installed, as f(estimate, reference)."""
    known = {"si_snr": si_snr, "pesq": pesq, "stoi": stoi, "estoi": partial(stoi, extended=True)}
    return {name: known[name] for name in names if name not in PACKAGES or find_spec(PACKAGES[name])}


def dnsmos(estimate: np.ndarray) -> dict[str, float]:
    """DNSMOS opinion scores 1 .. 5: P.835's of signal, background and overall quality (Reddy et al. 2022), and P.808's
    of another network (Reddy et al. 2021).

    Empty for no samples, which the package would repeat for ever to fill its window.
    """
    from speechmos import dnsmos as package

    if not len(estimate):
        return {}
    scores = package.run(np.clip(estimate, -1, 1), sr=SAMPLING_RATE)
    return {f"dnsmos_{name}": float(scores[f"{name}_mos"]) for name in ("sig", "bak", "ovrl", "p808")}
