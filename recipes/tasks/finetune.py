"""Going on with a trained recogniser on other recordings."""

from __future__ import annotations

from pathlib import Path

from asr.audio.io import atomic_path
from asr.ctc.model import CTCModel
from recipes.data.speech_data import SpeechData
from recipes.tasks.ctc import CTCTask


def finetune(
    data: SpeechData, folder: str, recogniser: str, intermediate: float = 0.3, seed: int = 0
) -> CTCTask:
    """The CTC task with sizes, vocabulary and weights of a trained recogniser.

    Args:
        data: feature stores and batching.
        folder: of the run; the vocabulary is written there.
        recogniser: folder or Hub id of the model to go on with.
        intermediate: weight of the character loss.
        seed: of data order and masks.
    """
    model = CTCModel.from_pretrained(recogniser)
    vocabulary = Path(folder) / "tokenizer.json"
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(vocabulary) as partial:
        partial.write_text(model.tokenizer.definition, encoding="utf-8")
    return CTCTask(model.encoder.config, str(vocabulary), data, intermediate, seed, init=recogniser)
