"""How disturbed speech sounds, by the model of hearing inside PESQ, with a gradient: a loss for enhancers.

Both signals go to one level, through the emphasis of wide-band PESQ and into 49 Bark bands, where the reference is
fitted to the estimate's colouring and the estimate to the reference's gain. Differences of loudness beyond a dead zone
are disturbance; what was added counts a second time, as it annoys more than what is missing. PESQ also aligns in time,
which an enhancer that adds no delay does not need, and cuts at silences.

Source: ITU-T P.862 (2001), Sec. 10.2, and P.862.2 for wide band; after torch-pesq (AudioLabs Erlangen, MIT licence),
with its recursive filters as factors on the spectrum.
"""

from __future__ import annotations

from functools import cache

import scipy.signal
import torch
from torch import Tensor

SAMPLING_RATE, WINDOW, HOP = 16_000, 512, 256
EMPHASIS = ([2.740826, -5.4816519, 2.740826], [1.0, -1.9444777, 0.94597794])
POWER, LOUDNESS = 6.910853e-06, 1.866055e-01  # scales of the calibrated spectrum and of loudness
SPEECH_POWER = 1e7  # to which 325 to 3250 Hz are brought
SYMMETRIC, ASYMMETRIC = 0.1, 0.0309  # opinion lost by a unit of each disturbance
FLOOR = 1e-6  # below which roots have no gradient

# Of each Bark band: bins in it, its width in Bark, what corrects its power, and the threshold of hearing.
# fmt: off
BINS = (
    1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 3, 4, 5, 4, 5, 6, 6, 7, 8,
    9, 9, 12, 12, 15, 16, 18, 21, 25, 20,
)
WIDTHS = (
    0.157344, 0.317994, 0.322441, 0.326934, 0.331474, 0.336061, 0.340697, 0.345381, 0.350114, 0.354897, 0.359729,
    0.364611, 0.369544, 0.374529, 0.379565, 0.384653, 0.389794, 0.394989, 0.400236, 0.405538, 0.410894, 0.416306,
    0.421773, 0.427297, 0.432877, 0.438514, 0.444209, 0.449962, 0.455774, 0.461645, 0.467577, 0.473569, 0.479621,
    0.485736, 0.491912, 0.498151, 0.504454, 0.510819, 0.517250, 0.523745, 0.530308, 0.536934, 0.543629, 0.550390,
    0.557220, 0.564119, 0.571085, 0.578125, 0.585232,
)
CORRECTIONS = (
    100, 100, 100, 100, 100, 100, 100, 100, 50, 100, 100, 100, 100, 100, 53.047077, 110.000046, 117.991989, 65,
    68.760147, 69.999931, 71.428818, 75.000038, 76.843384, 80.968781, 88.646126, 63.864388, 68.155350, 72.547775,
    75.584831, 58.379192, 80.950836, 64.135651, 54.384785, 73.821884, 64.437073, 59.176456, 65.521278, 61.399822,
    58.144047, 57.004543, 64.126297, 54.311001, 61.114979, 55.077751, 56.849335, 55.628868, 53.137054, 54.985844,
    79.546974,
)
THRESHOLDS = (
    51286152.0, 2454709.5, 70794.59375, 4897.788574, 1174.897705, 389.045166, 104.71286, 45.70882, 17.782795, 9.772372,
    4.897789, 3.090296, 1.905461, 1.258925, 0.977237, 0.724436, 0.562341, 0.457088, 0.389045, 0.331131, 0.295121,
    0.269153, 0.25704, 0.251189, 0.251189, 0.251189, 0.251189, 0.263027, 0.288403, 0.30903, 0.338844, 0.371535,
    0.398107, 0.436516, 0.467735, 0.489779, 0.501187, 0.501187, 0.512861, 0.524807, 0.524807, 0.524807, 0.512861,
    0.47863, 0.42658, 0.371535, 0.363078, 0.416869, 0.537032,
)
# fmt: on


def disturbance(estimate: Tensor, reference: Tensor) -> Tensor:
    """Opinion that is lost, from 0 on [batch], of waveforms [batch, samples] at 16 kHz; at least half a second."""
    wanted, heard = _bark(reference), _bark(estimate)
    thresholds, _, widths, _ = _tables(wanted.device)
    silent = _audible(wanted, 100 * thresholds).sum(-1) < 1e7
    mean_heard, mean_wanted = (
        (_audible(x, 100 * thresholds) * ~silent.unsqueeze(-1)).mean(1, keepdim=True) for x in (heard, wanted)
    )
    wanted = wanted * ((mean_heard + 1000) / (mean_wanted + 1000)).clamp(0.01, 100)
    total = _audible(wanted, thresholds).sum(-1)
    gain = (total + 5e3) / (_audible(heard, thresholds).sum(-1) + 5e3)
    gain = torch.cat((gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]), 1).clamp(3e-4, 5)
    heard = heard * gain.unsqueeze(-1)
    loud_heard, loud_wanted = _loudness(heard), _loudness(wanted)
    away = loud_heard - loud_wanted
    away = away.sign() * (away.abs() - 0.25 * torch.minimum(loud_heard, loud_wanted)).clamp(min=0)
    added = ((heard + 50) / (wanted + 50)) ** 1.2
    added = torch.where(added < 3, 0, added).clamp(max=12)
    whole = widths[1:].sum()
    symmetric = whole.sqrt() * _norm((away * widths)[..., 1:], 2)
    asymmetric = (away.abs() * added * widths)[..., 1:].sum(-1)
    weight = ((total + 1e5) / 1e7) ** -0.04
    parts = (_over_time((part * weight).clamp(max=45)) for part in (symmetric, asymmetric))
    return sum(share * part for share, part in zip((SYMMETRIC, ASYMMETRIC), parts, strict=True))


def _bark(wave: Tensor) -> Tensor:
    """Power in Bark bands [batch, frames, bands] of waveforms, brought to one level."""
    _, _, _, (band, emphasis, window, bank) = _tables(wave.device)
    spectrum = torch.stft(wave, WINDOW, HOP, window=window, center=False, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)  # [batch, frames, bins]
    energy = 2 * (power * band).sum((1, 2)) / (WINDOW * window.square().sum() / HOP)
    level = SPEECH_POWER * 1.04684 * (wave.shape[1] + 5120) / (energy + 1e-3)
    return (power[..., 1:-1] * emphasis[1:-1] * level[:, None, None]) @ bank


def _audible(power: Tensor, thresholds: Tensor) -> Tensor:
    return torch.where(power > thresholds, power, 0)


def _loudness(power: Tensor) -> Tensor:
    thresholds, exponents, *_ = _tables(power.device)
    rise = (0.5 + 0.5 * power.clamp(min=thresholds) / thresholds) ** exponents - 1  # 0 at the threshold
    return LOUDNESS * (2 * thresholds) ** exponents * rise


def _norm(x: Tensor, p: int) -> Tensor:
    return (x.abs() ** p).sum(-1).clamp(min=FLOOR) ** (1 / p)


def _over_time(disturbed: Tensor) -> Tensor:
    """Of frames [batch, frames]: the worst of 20 count most in each stretch, then stretches evenly [batch]."""
    stretches = disturbed.unfold(1, min(20, disturbed.shape[1]), 10)
    worst = (stretches**6).mean(-1).clamp(min=FLOOR) ** (1 / 6)
    return worst.square().mean(1).clamp(min=FLOOR).sqrt()


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Thresholds, exponents of loudness and widths of the bands; gains of bins, the window and the bands' bins."""
    thresholds, widths = torch.tensor(THRESHOLDS), torch.tensor(WIDTHS)
    centres = widths.cumsum(0) - widths / 2
    exponents = 0.23 * (6 / (centres + 2)).clamp(1, 2) ** 0.15
    bank = torch.zeros(WINDOW // 2, len(BINS))
    first = 0
    for number, (count, correction) in enumerate(zip(BINS, CORRECTIONS, strict=True)):
        bank[first : first + count, number] = correction * POWER
        first += count
    sections = scipy.signal.butter(5, [325, 3250], "band", fs=SAMPLING_RATE, output="sos")
    gains = [
        torch.from_numpy(abs(response[1]) ** 2).float()
        for response in (
            scipy.signal.sosfreqz(sections, WINDOW // 2 + 1, fs=SAMPLING_RATE),
            scipy.signal.freqz(*EMPHASIS, WINDOW // 2 + 1, fs=SAMPLING_RATE),
        )
    ]
    window = torch.hann_window(WINDOW)
    band, emphasis, window, bank = (t.to(device) for t in (*gains, window, bank[1:]))
    return thresholds.to(device), exponents.to(device), widths.to(device), (band, emphasis, window, bank)
