"""The corrector's guards, and the program around it."""

import json
import logging
import subprocess
import sys

import pytest

from dlm import CorrectionOptions, Corrector
from dlm.correct import difference, main


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


def test_language_models_are_refused(make_dlm):
    with pytest.raises(ValueError, match="without an encoder"):
        Corrector(make_dlm(encoder_layers=0))


# -- the program -------------------------------------------------------------------------------------------


@pytest.fixture
def model(copying_dlm, tmp_path):
    folder = tmp_path / "model"
    copying_dlm.save_pretrained(folder)
    return str(folder)


def test_lines_through_a_pipe(model):
    command = [sys.executable, "-m", "dlm.correct", "--model", model, "--threads", "1", "--margin", "1"]
    result = subprocess.run(command, input="axb\n\nbab\nчто\n", capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "aab\n\nbab\nчто\n")
    assert "passed through" in result.stderr


def test_help_does_not_import_torch():
    code = "import sys; from dlm.correct import make_parser; make_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_transcript_keeps_its_word_times(model, tmp_path, capsys):
    words = [{"text": t, "start": float(i), "end": i + 0.5, "confidence": 0.5} for i, t in enumerate(["axb", "bab"])]
    segment = {"start": 0.0, "end": 2.0, "text": "axb bab", "words": words, "score": -3.0, "nbest": []}
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"text": "axb bab", "duration": 2.0, "segments": [segment]}))
    assert main([str(path), "--model", model, "--margin", "-5"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"text", "duration", "segments"}
    new = result["segments"][0]["words"]
    assert [word["text"] for word in new] == result["text"].split() and new[0]["start"] == 0.0


def test_nbest_lines_and_bad_ones(model, tmp_path, capsys):
    path, out = tmp_path / "nbest.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": "1", "nbest": [["axb", -1.0], ["ab", -2.0]]}, {"id": "2", "text": "bb"}, {"id": "3"}]
    path.write_text("\n".join([*map(json.dumps, rows), "{broken"]))
    assert main([str(path), str(tmp_path / "missing"), "--model", model, "--margin", "1", "-o", str(out)]) == 1
    messages = capsys.readouterr().err.splitlines()
    assert [m.split(": ", 1)[1] for m in messages[:2]] == [
        "line 4 is not JSON (Expecting property name enclosed in double quotes)",
        'has neither "segments", "nbest", "hypotheses" nor "text": {"id": "3"}',
    ]
    assert "missing: No such file" in messages[2]
    written = [json.loads(line) for line in (out / "nbest.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in written] == [("1", "aab"), ("2", "bb")]


def test_diff(model, tmp_path, capsys):
    path = tmp_path / "lines.txt"
    path.write_text("axb\nbab\n")
    assert main([str(path), "--model", model, "--margin", "1", "--diff"]) == 0
    changed, same = capsys.readouterr().out.splitlines()
    assert changed.startswith("[-axb-] {+aab+}  (gain ") and same == "bab"
    assert difference("a b", "a", 2.0, coloured=True) == "a \033[31m[-b-]\033[0m  (gain 2.0 nats)"


def test_unknown_model_is_a_usage_error(tmp_path, capsys):
    path = tmp_path / "lines.txt"
    path.write_text("axb\n")
    with pytest.raises(SystemExit) as stop:
        main([str(path), "--model", str(tmp_path / "nothing")])
    assert stop.value.code == 2 and "nothing" in capsys.readouterr().err
