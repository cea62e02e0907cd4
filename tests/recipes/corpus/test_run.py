"""`python -m recipes.corpus` as a plain loop: rows, errors, restarts, formats, addresses."""

import json

import fsspec
import numpy as np
import pytest
import soundfile

from recipes.corpus.__main__ import main

pytest.importorskip("pyarrow")


@pytest.fixture
def table(make_corpus, tmp_path):
    """Eight good recordings, one that is no recording and one that is not there."""
    path = make_corpus(tmp_path / "data", 8)
    (tmp_path / "data" / "bad.wav").write_bytes(b"this is no sound" * 10)
    with open(path, "a") as file:
        file.write("zz-bad\tbad.wav\tspeaker0\thello\nzz-missing\tmissing.wav\tspeaker0\thello\n")
    return path


def test_transcribe_gives_each_recording_one_row(table, tmp_path, tiny_ctc_model, capsys, rows_of):
    from asr import Transcriber

    arguments = ["transcribe", str(table), str(tmp_path / "out"), f"model={tiny_ctc_model}", "part_seconds=20"]
    assert main(arguments) == 1
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"rec-{i:04d}" for i in range(8)] + ["zz-bad", "zz-missing"]
    transcript = Transcriber.from_pretrained(tiny_ctc_model)(table.parent / "wav" / "0003.wav")
    assert rows[3]["text"] == transcript.text != ""
    assert rows[3]["seconds"] == transcript.duration and rows[3]["speaker"] == "speaker0"
    assert [word["text"] for word in rows[3]["words"]] == [word.text for word in transcript.words]
    assert rows[3]["reference"] == "good morning everyone" and rows[3]["error"] is None
    assert "bad.wav" in rows[8]["error"] and "no such file" in rows[9]["error"] and rows[9]["text"] is None
    output = capsys.readouterr()
    assert "10 recordings" in output.out and "2 errors" in output.out
    assert sum("bad.wav" in line for line in output.err.splitlines()) == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names - {n for n in names if n.startswith("part-")} == {"job.json", "summary.json"}


def test_a_damaged_recording_has_the_text_of_the_rest_and_is_no_label(table, tmp_path, tiny_ctc_model, capsys, rows_of):
    flac = table.parent / "cut.flac"
    wave, rate = soundfile.read(table.parent / "wav" / "0003.wav")
    soundfile.write(flac, np.tile(wave, 3), rate)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    common = [str(flac), str(tmp_path / "out"), f"model={tiny_ctc_model}"]
    assert main(["transcribe", *common]) == 1
    [row] = rows_of(tmp_path / "out")
    assert row["text"] and row["error"] is None and row["missing"].startswith("damaged or truncated: missing ")
    output = capsys.readouterr()
    assert "0 errors, 1 damaged" in output.out and row["missing"] in output.err
    common[1] = str(tmp_path / "labels")
    assert main(["label", *common]) == 1 and "truncated" in rows_of(tmp_path / "labels")[0]["error"]


def test_restart_skips_what_is_done_and_takes_what_is_new(table, tmp_path, tiny_ctc_model, rows_of):
    out = tmp_path / "out"
    arguments = ["transcribe", str(table), str(out), f"model={tiny_ctc_model}", "part_seconds=20"]
    main(arguments)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    victim = sorted(before)[1]
    (out / victim).unlink()
    table.write_text(table.read_text() + f"new\t{table.parent / 'wav' / '0000.wav'}\tanna\thello\n")
    main(arguments)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert all(after[name] == before[name] for name in before if name != victim)
    assert [row["id"] for row in rows_of(out)].count("new") == 1 and len(rows_of(out)) == 11


def test_errors_are_kept_unless_they_shall_be_retried(table, tmp_path, tiny_ctc_model, rows_of):
    out = tmp_path / "out"
    arguments = ["transcribe", str(table), str(out), f"model={tiny_ctc_model}", "part_seconds=20"]
    main(arguments)
    (table.parent / "missing.wav").write_bytes((table.parent / "wav" / "0000.wav").read_bytes())
    assert main(arguments) == 1 and rows_of(out)[9]["error"]
    assert main([*arguments, "retry_errors=true"]) == 1
    rows = rows_of(out)
    assert len(rows) == 10 and rows[9]["error"] is None and rows[8]["error"]


def test_score_gives_what_asr_score_gives(table, tmp_path, tiny_ctc_model, capsys, rows_of):
    from asr.score import report

    out = tmp_path / "out"
    assert main(["score", str(table), str(out), f"model={tiny_ctc_model}", "format=jsonl", "decoder=greedy"]) == 1
    good = [row for row in rows_of(out, "jsonl") if not row["error"]]
    expected = report({r["id"]: r["reference"] for r in good}, {r["id"]: r["text"] for r in good})["scores"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["wer"] == pytest.approx(expected[0]["wer"])
    assert summary["normalised_wer"] == pytest.approx(expected[1]["wer"])
    assert f"{expected[0]['wer']:.2%}" in capsys.readouterr().out


def test_cuts_of_one_file_are_heard_apart(spoken, tmp_path, tiny_ctc_model, rows_of):
    from asr import Transcriber
    from asr.audio import save

    save(tmp_path / "long.wav", np.concatenate([spoken[0], spoken[1]]))
    middle, total = len(spoken[0]) / 16000, (len(spoken[0]) + len(spoken[1])) / 16000
    spans = [(0.0, middle), (middle, total - middle), (total + 1, 1.0)]
    with open(tmp_path / "cuts.jsonl", "w") as file:
        for number, (start, seconds) in enumerate(spans):
            source = {"sources": [{"source": str(tmp_path / "long.wav")}]}
            cut = {"id": str(number), "start": start, "duration": seconds, "recording": source}
            file.write(json.dumps(cut) + "\n")
    out = tmp_path / "out"
    assert main(["transcribe", str(tmp_path / "cuts.jsonl"), str(out), f"model={tiny_ctc_model}"]) == 1
    rows = rows_of(out)
    transcriber = Transcriber.from_pretrained(tiny_ctc_model)
    assert [row["text"] for row in rows[:2]] == [transcriber(wave, 16000).text for wave in spoken[:2]]
    assert "none at" in rows[2]["error"]


def test_enhance_keeps_the_kind_of_sound_and_the_names_apart(table, tmp_path, spoken, rows_of):

    wav = table.parent / "wav"
    soundfile.write(wav / "0000.wav", np.stack([spoken[0], spoken[0]], 1), 44100)
    out = tmp_path / "out"
    assert main(["enhance", str(wav), str(out), "attenuation_limit=6"]) == 0
    rows = rows_of(out)
    assert len({row["path"] for row in rows}) == 8 and rows[0]["source"] == str(wav / "0000.wav")
    info = soundfile.info(out / rows[0]["path"])
    assert (info.samplerate, info.channels, info.frames) == (44100, 2, len(spoken[0]))
    assert rows[0]["seconds"] == pytest.approx(len(spoken[0]) / 44100)


def test_names_of_sound_stay_in_their_folder():
    from recipes.corpus.sound import audio_name

    assert audio_name("../../etc/passwd").count("/") == 1
    assert audio_name("a/b") != audio_name("a_b")


def test_synthesise_depends_on_seed_and_id_alone(tmp_path, speak, rows_of):
    from asr.audio import load

    (tmp_path / "a.txt").write_text("hello world\ngood morning\n")
    voices = "voices=[espeak]"
    assert main(["synthesise", str(tmp_path / "a.txt"), str(tmp_path / "one"), voices]) == 0
    assert main(["synthesise", str(tmp_path / "a.txt"), str(tmp_path / "two"), voices, "part_seconds=1"]) == 0
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert one == two and one[0]["text"] == "hello world" and one[0]["voice"].startswith("espeak")
    wave = load(tmp_path / "one" / one[0]["path"])
    assert len(wave) / 16000 == pytest.approx(one[0]["seconds"])


def test_from_a_web_server_into_memory(table, tmp_path, tiny_ctc_model, serve, rows_of):
    pytest.importorskip("aiohttp")
    common = [f"model={tiny_ctc_model}", "part_seconds=20"]
    assert main(["transcribe", f"{serve(table.parent)}/table.tsv", "memory://corpus/out", *common]) == 1
    assert main(["transcribe", str(table), str(tmp_path / "out"), *common]) == 1
    local, remote = rows_of(tmp_path / "out"), rows_of("memory://corpus/out")
    assert [row["text"] for row in local] == [row["text"] for row in remote]
    assert "no such file" in remote[9]["error"]
    assert not fsspec.filesystem("memory").exists("/corpus/out/_plan.jsonl")


def test_labels_are_a_training_table_without_the_unsure(table, tmp_path, tiny_ctc_model, rows_of):
    from recipes.data.corpora import read_table

    common = ["label", str(table), str(tmp_path / "labels"), f"model={tiny_ctc_model}"]
    assert main(common) == 1
    sure = sorted(row["confidence"] for row in rows_of(tmp_path / "labels") if not row["error"])
    recordings = read_table(tmp_path / "labels")
    assert [r.id for r in recordings] == [f"rec-{i:04d}" for i in range(8)] and all(r.text for r in recordings)
    assert len(recordings[0].wave()) > 1000
    common[2] = str(tmp_path / "sure")
    assert main([*common, f"least_confidence={sure[4]}"]) == 1
    kept = [row for row in rows_of(tmp_path / "sure") if not row["error"]]
    assert [row["confidence"] >= sure[4] for row in kept] and len(kept) == sum(c >= sure[4] for c in sure) < 8


def test_teachers_must_agree(table, tmp_path, monkeypatch, rows_of):
    labellers = pytest.importorskip("recipes.data.labellers")

    class Teacher:
        """Hears a text for each length of a wave; the second one mishears the last recording."""

        def __init__(self, name, *rest, **options):
            self.name = name

        def transcribe(self, waves, references=None):
            return [f"Hello, {len(wave)}." if self.name == "first" or number < 7 else "no"
                    for number, wave in enumerate(waves)]  # fmt: skip

    monkeypatch.setattr(labellers, "load_labeller", Teacher)
    lines = [line.split("\t") for line in table.read_text().splitlines()]
    bare = "\n".join("\t".join(line[:3]) for line in lines) + "\n"
    (table.parent / "bare.tsv").write_text(bare)
    out = str(tmp_path / "labels")
    assert main(["label", str(table.parent / "bare.tsv"), out, "teachers=[first,second]", "threshold=0.1"]) == 1
    rows = rows_of(out)
    assert [row["fate"] for row in rows] == ["agreed"] * 7 + ["disagreed", None, None]
    assert rows[0]["text"].startswith("Hello, ") and rows[7]["error"] == "rec-0007: disagreed"
    assert "bad.wav" in rows[8]["error"]


def test_one_recording_that_breaks_the_model_is_one_error(table, tmp_path, tiny_ctc_model, monkeypatch, rows_of):
    from asr import Transcriber

    listen = Transcriber.transcribe_many

    def choke(self, sources, *rest):
        for source, transcript in listen(self, sources, *rest):
            if "0002" in str(source):
                raise RuntimeError("the kernel does not like this")
            yield source, transcript

    monkeypatch.setattr(Transcriber, "transcribe_many", choke)
    assert main(["transcribe", str(table), str(tmp_path / "out"), f"model={tiny_ctc_model}"]) == 1
    errors = {row["id"]: row["error"] for row in rows_of(tmp_path / "out") if row["error"]}
    assert set(errors) == {"rec-0002", "zz-bad", "zz-missing"} and "does not like" in errors["rec-0002"]

    alone = ["transcribe", str(table.parent / "wav" / "0002.wav"), str(tmp_path / "alone"), f"model={tiny_ctc_model}"]
    assert main(alone) == 1 and "does not like" in rows_of(tmp_path / "alone")[0]["error"]

    def broken(self, *rest):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Transcriber, "transcribe_many", broken)
    with pytest.raises(RuntimeError, match="device is gone"):
        main(["transcribe", str(table), str(tmp_path / "none"), f"model={tiny_ctc_model}"])
    assert not list((tmp_path / "none").glob("part-*"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["transcribe", "in.tsv"], "give a work, IN and OUT"),
        (["sing", "in.tsv", "out"], "there is no work 'sing'"),
        (["transcribe", "in.tsv", "out"], "no such file"),
        (["transcribe", "in.tsv", "out", "workers=0"], "workers is 0"),
        (["transcribe", "in.tsv", "out", "colour=red"], "colour"),
        (["transcribe", "in.tsv", "out", "format=xml"], "choose one of parquet, jsonl"),
    ],
)
def test_usage(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_results_of_other_settings_are_not_mixed(table, tmp_path, tiny_ctc_model, capsys):
    arguments = ["transcribe", str(table), str(tmp_path / "out"), f"model={tiny_ctc_model}"]
    main(arguments)
    capsys.readouterr()
    assert main([*arguments, "decoder=greedy"]) == 2
    assert "made with other decoder" in capsys.readouterr().err
