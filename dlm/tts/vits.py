"""Speech from VITS models (Kim et al. 2021) through transformers: neural voices, many speakers in one model."""

from __future__ import annotations

import zlib
from functools import cached_property

import numpy as np

from dlm.tts.base import Ranges, Utterance, Voice, finished


class VitsTTS:
    """A VITS checkpoint, e.g. kakao-enterprise/vits-vctk (109 speakers) or facebook/mms-tts-eng.

    The model is loaded when it first speaks. VITS has no pitch control: `Utterance.pitch` has no effect. Its noise
    scales vary delivery (arXiv 2405.15216, Sec. 3.1 varies them too).

    Args:
        name: local folder or Hub id.
        device: "cpu", "cuda" ...
        noise_scale: range of the prior's standard deviation.
        duration_noise: range of the duration predictor's.
        ranges: limits of tempo.
    """

    def __init__(
        self,
        name: str,
        device: str = "cpu",
        noise_scale: tuple[float, float] = (0.5, 0.8),
        duration_noise: tuple[float, float] = (0.6, 1.0),
        ranges: Ranges = Ranges(),
    ):
        self.name, self.device = str(name), device
        self.noise_scale, self.duration_noise, self.ranges = noise_scale, duration_noise, ranges

    def available(self) -> bool:
        """Whether the weights can be had; looks them up, and downloads the configuration if they lie on the Hub."""
        try:
            return self._config is not None
        except (OSError, ValueError):
            return False

    def voices(self) -> list[Voice]:
        """One voice a speaker, named by number.

        Raises:
            OSError: there is no such model.
        """
        return [Voice(f"vits:{self.name}", str(number)) for number in range(max(1, self._config.num_speakers))]

    def synthesize(self, utterances: list[Utterance]) -> list[np.ndarray | None]:
        """Speak all utterances; see `dlm.tts.base.Engine`. The same utterance always sounds the same."""
        return [self._speak(utterance) for utterance in utterances]

    def _speak(self, utterance: Utterance) -> np.ndarray | None:
        import torch

        from asr.audio.augment import seed_torch, seeded

        model, tokenizer = self._model
        key = zlib.crc32(f"{utterance.voice.name} {utterance.rate:.3f} {utterance.text}".encode())
        rng = seeded(key)
        seed_torch(key)
        model.speaking_rate = float(utterance.rate)
        model.noise_scale = float(rng.uniform(*self.noise_scale))
        model.noise_scale_duration = float(rng.uniform(*self.duration_noise))
        inputs = tokenizer(utterance.text, return_tensors="pt").to(self.device)
        if not inputs["input_ids"].numel():
            return None
        speaker = int(utterance.voice.name) if self._config.num_speakers > 1 else None
        with torch.inference_mode():
            wave = model(**inputs, speaker_id=speaker).waveform[0].float().cpu().numpy()
        return finished(wave, model.config.sampling_rate)

    @cached_property
    def _config(self):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.name)
        if config.model_type != "vits":
            raise ValueError(f"{self.name} is a {config.model_type} model: name a VITS one")
        return config

    @cached_property
    def _model(self):
        from transformers import AutoTokenizer, VitsModel

        return VitsModel.from_pretrained(self.name).to(self.device).eval(), AutoTokenizer.from_pretrained(self.name)
