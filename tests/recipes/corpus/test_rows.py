"""What IN may be, wherever it lies, and how it is cut into parts."""

import gzip
import json
import lzma

import fsspec
import numpy as np
import pytest

from recipes.corpus.parts import PART_ROWS, Plan, Results, grouped
from recipes.corpus.rows import read_rows
from recipes.corpus.storage import Folder


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_paths_of_a_table_start_at_its_folder_or_above(tmp_path):
    write(tmp_path / "wav" / "a.wav", "x")
    write(tmp_path / "tables" / "b.wav", "x")
    table = write(tmp_path / "tables" / "t.tsv", "id\tpath\ttext\tseconds\na\twav/a.wav\thello\t1.5\n")
    assert list(read_rows(str(table))) == [
        {"id": "a", "path": str(tmp_path / "wav" / "a.wav"), "text": "hello", "seconds": 1.5}
    ]
    beside = write(tmp_path / "tables" / "u.tsv", "id\tpath\nb\tb.wav\nc\t/abs/c.wav\nd\ts3://bucket/d.wav\n")
    paths = [row["path"] for row in read_rows(str(beside))]
    assert paths == [str(tmp_path / "tables" / "b.wav"), "/abs/c.wav", "s3://bucket/d.wav"]


def test_lhotse_cuts_are_spans_of_recordings(tmp_path):
    cut = {
        "id": "cut-1", "start": 2.5, "duration": 4.0, "channel": 0, "type": "MonoCut",
        "recording": {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "/audio/r.flac"}]},
        "supervisions": [{"id": "s", "text": "hello", "speaker": "anna"}],
    }  # fmt: skip
    path = tmp_path / "cuts.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(cut) + "\n" + json.dumps({**cut, "id": "cut-2", "supervisions": []}) + "\n")
    first, second = read_rows(str(path))
    assert first == {
        "id": "cut-1", "path": "/audio/r.flac", "start": 2.5, "seconds": 4.0, "text": "hello", "speaker": "anna"
    }  # fmt: skip
    assert "text" not in second and second["id"] == "cut-2"


def test_parquet_of_labels_and_a_folder_of_parts_without_the_errors(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    for number in range(2):
        rows = [{"id": f"{number}-{i}", "path": f"{i}.wav", "error": "broken" if i == 1 else None} for i in range(3)]
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / f"part-{number}.parquet")
    assert [row["id"] for row in read_rows(str(tmp_path / "part-1.parquet"))] == ["1-0", "1-2"]
    assert [row["id"] for row in read_rows(str(tmp_path))] == ["0-0", "0-2", "1-0", "1-2"]


def test_a_text_has_a_row_a_line(tmp_path):
    path = tmp_path / "words.txt.xz"
    with lzma.open(path, "wt") as file:
        file.write("hello\n\nworld\n")
    assert list(read_rows(str(path))) == [{"id": "words-0", "text": "hello"}, {"id": "words-2", "text": "world"}]


def test_a_folder_gives_its_recordings_by_their_place(tmp_path):
    for name in ("b.wav", "a/c.flac", "a/notes.md", "a/b/d.MP3", "a/._c.flac", ".trash/e.wav", "f.ts"):
        write(tmp_path / name, "12345")
    rows = list(read_rows(str(tmp_path)))
    assert [row["id"] for row in rows] == ["a/b/d.MP3", "a/c.flac", "b.wav", "f.ts"]
    assert rows[0] == {"id": "a/b/d.MP3", "path": str(tmp_path / "a/b/d.MP3"), "bytes": 5}


def test_memory_and_http_file_systems(tmp_path, serve):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/rows/t.tsv", b"id\tpath\na\tx/a.wav\n")
    memory.pipe_file("/rows/x/a.wav", b"1234")
    assert list(read_rows("memory://rows/t.tsv")) == [{"id": "a", "path": "memory://rows/x/a.wav"}]
    assert [row["path"] for row in read_rows("memory://rows/x")] == ["memory:///rows/x/a.wav"]
    pytest.importorskip("aiohttp")
    write(tmp_path / "x" / "a.wav", "1234")
    write(tmp_path / "t.tsv", "id\tpath\na\tx/a.wav\n")
    web = serve(tmp_path)
    assert list(read_rows(f"{web}/t.tsv")) == [{"id": "a", "path": f"{web}/x/a.wav"}]
    assert [row["path"] for row in read_rows(f"{web}/x")] == [f"{web}/x/a.wav"]


@pytest.mark.parametrize(
    "name, content, error",
    [
        ("t.tsv", "name\tpath\na\tb\n", "needs a tab-separated column 'id'"),
        ("t.tsv", "id\tpath\na\tb\n\tc\n", "row 2"),
        ("t.jsonl", '{"path": "a.wav"}\n', "needs an id"),
        ("notes/t.md", "nothing", "neither recordings"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, error):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=error):
        list(read_rows(str(path.parent if name.endswith(".md") else path)))


def test_nothing_there(tmp_path):
    for name in ("none.tsv", "none", "none.parquet"):
        with pytest.raises(FileNotFoundError, match="none"):
            list(read_rows(str(tmp_path / name)))
    with pytest.raises(ValueError, match="nosuch"):
        list(read_rows("nosuch://bucket/t.tsv"))


def test_groups_hold_the_seconds_they_may():
    rows = [{"id": str(i), "seconds": seconds} for i, seconds in enumerate((4, 4, 4, 30, 1, 1))]
    assert [[row["id"] for row in group] for group in grouped(rows, 10)] == [["0", "1"], ["2"], ["3"], ["4", "5"]]
    tiny = ({"id": str(i), "bytes": 100} for i in range(2 * PART_ROWS + 1))
    assert [len(group) for group in grouped(tiny, 1e9)] == [PART_ROWS, PART_ROWS, 1]


@pytest.fixture
def results(tmp_path):
    return Results(Folder(tmp_path / "out"), "jsonl", {"id": "string", "error": "string"})


def test_a_plan_leaves_out_what_is_done_and_keeps_names(results):
    rows = [{"id": f"é{i}", "seconds": 1.0} for i in range(10)]
    plan = Plan.make(lambda: iter(rows), results, 4.0)
    parts = [plan.part(*span) for span in plan.spans]
    assert [row for _, part in parts for row in part] == rows and (plan.total, plan.missing, plan.seconds) == (
        10,
        10,
        10,
    )
    results.write(parts[1][0], [{"id": row["id"]} for row in parts[1][1]])
    again = Plan.make(lambda: iter(rows), results, 4.0)
    assert [again.part(*span) for span in again.spans] == [parts[0], parts[2]]
    more = Plan.make(lambda: iter([{"id": "new"}, *rows]), results, 4.0)  # other groups, the same ids
    assert {row["id"] for span in more.spans for row in more.part(*span)[1]} == {
        row["id"] for row in rows[:4] + rows[8:]
    } | {"new"}


def test_an_id_that_comes_twice_is_refused(results):
    rows = [{"id": name} for name in ("a", "b", "c", "b")]
    with pytest.raises(ValueError, match="'b' among them"):
        Plan.make(lambda: iter(rows), results, 15.0)


def test_keys_of_done_ids_are_sorted(results):
    results.write("part-0-x.jsonl", [{"id": str(i)} for i in range(100)])
    done = results.done()
    assert len(done) == 100 and (np.diff(done.astype(object)) > 0).all()


def test_a_write_that_is_cut_off_leaves_no_part(results, monkeypatch):
    results.write("part-0-x.jsonl", [{"id": "a"}])
    folder = results.folder
    monkeypatch.setattr(folder, "_rename", lambda temporary, path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        results.write("part-1-x.jsonl", [{"id": "b"}])
    assert results.names() == ["part-0-x.jsonl"] and len(folder.names()) == 2
    folder.clear_temporary()
    assert folder.names() == ["part-0-x.jsonl"]
