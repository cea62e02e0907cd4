"""The corrector's guards, and the program around it."""

import json
import logging

import pytest

from dlm import CorrectionOptions, Corrector
from dlm.corrector import with_sure_words


@pytest.fixture
def corrector(copying_dlm):
    return Corrector(copying_dlm, CorrectionOptions(margin=1.0, beam_size=4))


def test_text_is_corrected_and_right_text_stays(corrector):
    assert corrector("axb") == "aab"
    assert corrector([("bxa", -1.0), ("baa", -2.0)]) == "baa"
    assert corrector("bab") == "bab"
    assert corrector("AXB") == "AAB"
    assert corrector.correct(["axb", "aab"])[0].gain > 1.0


def test_margin_decides(copying_dlm):
    gain = Corrector(copying_dlm, CorrectionOptions(margin=0.0)).correct(["axb"])[0].gain
    for margin, text in ((gain - 0.1, "aab"), (gain + 0.1, "axb")):
        assert Corrector(copying_dlm, CorrectionOptions(margin=margin))("axb") == text


def test_audio_has_the_last_word(corrector):
    def hears_x(texts):
        return [0.0 if text == "axb" else -1000.0 for text in texts]

    def hears_third(texts):
        return [0.0 if text == "bbb" else -1000.0 for text in texts]

    assert corrector(["axb"], score_texts=hears_x) == "axb"
    assert corrector(["axb"], score_texts=lambda texts: [0.0] * len(texts)) == "aab"
    assert corrector(["axb", "bbb"], score_texts=hears_third) == "bbb"


def test_ngram_takes_part_where_it_is_asked_to(copying_dlm):
    class Scorer:
        best_path = "axb"

        def __call__(self, texts):
            return [0.0] * len(texts)

        def language(self, texts):
            return [0.0 if text == "bbb" else -1000.0 for text in texts]

    for scale, text in ((0.0, "aab"), (1.0, "bbb")):
        assert Corrector(copying_dlm, CorrectionOptions(ngram_scale=scale))(["bbb"], score_texts=Scorer()) == text


@pytest.mark.parametrize("text", ["", "  ", "я не знаю", "naïve ax", "Ax, b!", "a" * 400])
def test_what_the_model_cannot_read_passes_through(corrector, text):
    assert corrector(text) == text
    assert corrector([text], score_texts=lambda texts: [0.0] * len(texts)) == text


def test_passing_through_is_said(corrector, caplog):
    with caplog.at_level(logging.WARNING):
        long = "ax " * 3400
        assert corrector.correct([long, "größe"])[0].text == long
    assert "10200 characters (limit 2000)" in caplog.messages[0] and "ß" in caplog.messages[1]


def test_long_lines_are_corrected_in_stretches(corrector):
    line = "ab ba " * 100
    result = corrector.correct([line.strip()])[0].text
    assert len(corrector._chunks(line)) == 2 and " ".join(corrector._chunks(line)) == line.strip()
    assert result.count("ab") > 0


def test_options_are_checked_and_stored(copying_dlm, tmp_path):
    with pytest.raises(ValueError, match="beam_size 0"):
        CorrectionOptions(beam_size=0)
    copying_dlm.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "correction": {"margin": 3.5}}))
    assert Corrector.from_pretrained(tmp_path).options.margin == 3.5
    assert Corrector.from_pretrained(tmp_path, margin=1.5).options.margin == 1.5


def test_words_that_the_recogniser_is_sure_of_stay(corrector):
    for confidence, text in ((0.5, "aab"), (0.95, "axb")):
        assert [c.text for c in corrector.running(["axb", "bxa"], sure=[[confidence], None])] == [text, "baa"]
    assert with_sure_words("a b c", "a x y c d", [0.1, 0.95, 0.1], 0.9) == "a b c d"
    assert with_sure_words("a b c", "a c", [0.1, 0.2, 0.1], 0.9) == "a c"


def test_language_models_are_refused(make_dlm):
    with pytest.raises(ValueError, match="without an encoder"):
        Corrector(make_dlm(encoder_layers=0))
