import csv

import numpy as np
import pytest
import soundfile

from enhance.mixing import list_recordings
from recipes.choose_clean import main


@pytest.fixture
def table(tmp_path):
    """Three recordings whose level says how clean they are to be called, and one that cannot be read."""
    rows = ["id\tpath\tsource"]
    for number, source in enumerate(("librispeech a", "common voice 13", "common voice 13")):
        soundfile.write(tmp_path / f"r{number}.wav", np.full(1600, 0.1 * (number + 1)), 16_000)
        rows.append(f"{number}\tr{number}.wav\t{source}")
    (tmp_path / "bad.wav").write_bytes(b"not audio")
    rows.append("3\tbad.wav\tcommon voice 13")
    (tmp_path / "speech.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "speech.tsv"


@pytest.fixture
def judged(monkeypatch):
    """DNSMOS that knows the level; what it was asked for."""
    asked = []

    def dnsmos(wave):
        asked.append(float(wave[0]))
        return {"dnsmos_sig": 4.0, "dnsmos_bak": 3.5 + 3 * float(wave[0]), "dnsmos_ovrl": 3.0}

    monkeypatch.setattr("enhance.metrics.dnsmos", dnsmos)
    return asked


def names(table):
    with open(table, newline="") as file:
        return [row["path"].rsplit("/")[-1] for row in csv.DictReader(file, delimiter="\t")]


def test_the_clean_part_of_a_source_is_listed_for_the_mixer(table, tmp_path, judged, capsys):
    out = tmp_path / "data" / "clean.tsv"
    assert main([str(table), str(out), "--source", "Common", "--background", "4.3"]) == 0
    assert names(out) == ["r2.wav"] and len(judged) == 2
    error = capsys.readouterr().err
    assert "bad.wav" in error and "1 of 3 recordings" in error
    assert list_recordings([out], "clean") == [tmp_path / "r2.wav"]


def test_scores_are_kept_for_other_thresholds(table, tmp_path, judged):
    out = tmp_path / "clean.tsv"
    main([str(table), str(out)])
    scores = out.with_suffix(".scores.tsv")
    scores.write_text(scores.read_text().rsplit("\t", 2)[0])  # as after an interruption within the last line
    main([str(table), str(out), "--background", "3.9"])
    assert names(out) == ["r1.wav", "r2.wav"] and len(judged) == 4  # three, and the last again


def test_whole_sources_and_errors(table, tmp_path, judged, capsys):
    out = tmp_path / "read.tsv"
    assert main([str(table), str(out), "--source", "librispeech", "--no_scores"]) == 0
    assert names(out) == ["r0.wav"] and judged == []
    assert main([str(table), str(out), "--source", "radio"]) == 2
    assert "no recording of radio" in capsys.readouterr().err
    assert main([str(tmp_path / "no.tsv"), str(out)]) == 2
