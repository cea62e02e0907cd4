"""What the table of the denoising benchmark counts."""

import pytest

from recipes.benchmarks.dllm_asr import Measured, summarise


def test_written_text_is_not_counted_as_an_error():
    written = {"ctc": ["hello word", "good day"], "dllm": ["Hello, world.", "Good day!"]}
    measured = {
        name: Measured(texts=texts, seconds=[0.1, 0.1], passes=[1, 2], token_forwards=[3, 4])
        for name, texts in written.items()
    }
    rows = summarise(["hello world", "good day"], measured, {"audio": [2.0, 11.0], "encoder": [0.1, 0.2]})
    assert rows["ctc"]["wer"] == pytest.approx(1 / 4) and rows["dllm"]["wer"] == 0
    assert rows["dllm"]["wer_raw"] == 1 and rows["dllm"]["fixed"] == 1 and rows["dllm"]["broken"] == 0
    assert rows["dllm"]["minus"]["ctc"][1] <= 0 and list(rows["dllm"]["by_duration"]) == ["0-5", "10+"]
