"""Recognisers as plain functions of a wave, ours and others, to be compared or to judge enhanced speech."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

System = Callable[[np.ndarray], str]


def our_system(decoder: str, model: str | None) -> System:
    """The recogniser on whole recordings, features included, with greedy or beam decoding."""
    from asr.loading import load_recogniser
    from asr.recogniser import DecodeOptions

    recogniser = load_recogniser(model, "cpu")
    options = DecodeOptions(decoder=decoder, word_timestamps=False)
    return lambda wave: recogniser.transcribe_batch([wave], options)[0].text


def pocketsphinx(model: str | None = None) -> System:
    """PocketSphinx 5 with the model, dictionary and language model of its package."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16000, loglevel="FATAL")

    def transcribe(wave: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw((wave * 32767).clip(-32768, 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        return decoder.hyp().hypstr if decoder.hyp() else ""

    return transcribe
