"""The canvas of the denoising decoder for the page, pass by pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asr.audio.errors import AudioError
from asr.audio.io import SAMPLING_RATE, stream
from asr.server.errors import ApiError

if TYPE_CHECKING:
    from asr.recogniser import Recogniser, SpeechRecogniser
    from asr.transcriber import Transcriber

LONGEST = 10.0  # seconds of speech that are shown
SEARCHED = 60 * SAMPLING_RATE  # samples in which speech is looked for
# The paper's loop on the draft; a model's own choice may be one pass and a search, which shows little.
PAPER = {"prior": "ctc", "threshold": 0.9, "search": "none"}
PACE = 0.4  # seconds between two passes on the page

STYLE = """
.canvas { overflow-x: auto; font: 1em/2 ui-monospace, monospace }
.canvas table, .canvas tr, .canvas td { border: 0 !important }
.canvas td { padding: 0 .6em; vertical-align: top }
.canvas .pass { opacity: .55; white-space: nowrap }
.canvas .draft { color: #0e7490 }
.canvas .new { background: #16a34a; color: white; border-radius: .2em }
.canvas .mask { background: rgb(128 128 128/.35); border-radius: .2em; margin: 0 1px; padding: 0 .2em }
.canvas .empty { opacity: .35 }
.canvas-legend { opacity: .75; font-size: .85em; margin-top: .8em }
.dark .canvas .draft { color: #67e8f9 }
"""
LEGEND = ('<p class="canvas canvas-legend"><span class="draft">kept from the draft</span> · '
          '<span class="new">settled in this pass</span> · settled before · <span class="mask">·</span> mask · '
          '<span class="empty">_</span> empty slot</p>')  # fmt: skip


def prepare(recogniser: Recogniser) -> None:
    """Load the denoising decoder.

    Raises:
        ApiError: the model has none.
    """
    from asr.recogniser import DecodeOptions

    try:
        recogniser.prepare(DecodeOptions("dllm", denoising=PAPER))
    except ValueError:
        raise ApiError(400, "The model that is served has no denoising decoder; the default model has one.") from None


def first_speech(source: Path, transcriber: Transcriber) -> np.ndarray:
    """The first seconds of speech [samples] of a recording.

    Raises:
        AudioError: it cannot be used, or nobody speaks at its start.
    """
    segmenter = replace(transcriber.segmenter, max_seconds=LONGEST)
    blocks = _start_of(source)
    segment = next(iter(segmenter(blocks)), None)
    if segment is None:
        raise AudioError(f"{source.name}: no speech at its start")
    return segment.wave


def _start_of(source: Path):
    samples = 0
    for block in stream(source):
        yield block[: SEARCHED - samples]
        samples += len(block)
        if samples >= SEARCHED:
            return


def denoised(recogniser: SpeechRecogniser, wave: np.ndarray) -> list:
    """What the decoder made of a wave [samples] in each of its batches; for the thread that owns the recogniser."""
    from asr.recogniser import DecodeOptions

    found: list = []
    recogniser.on_denoised = found.append
    try:
        recogniser.transcribe_batch([wave], DecodeOptions("dllm", denoising=PAPER))
    finally:
        recogniser.on_denoised = None
    return found


def rows(results: list, tokenizer: object) -> list[str]:
    """Rows of the table of the first of the results."""
    from asr.dllm.view import table_rows

    return table_rows(results[0], 0, tokenizer)


def as_html(lines: list[str]) -> str:
    """The table so far."""
    return f'<div class="canvas"><table>{"".join(lines)}</table></div>{LEGEND}'
