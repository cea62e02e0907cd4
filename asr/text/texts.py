"""Read texts by utterance id: reference and hypothesis files in the layouts the field uses.

The layout is told from the content. What was assumed can be said (`Texts.layout`): a misread id turns into a word.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from asr.audio.formats import is_audio

IDS = ("id", "utt_id", "utterance_id", "path", "audio_filepath", "audio", "file", "file_name", "filename",
       "wav_filename")  # fmt: skip
TEXTS = ("text", "transcript", "transcription", "sentence")
PREDICTED = ("pred_text", *TEXTS)  # NeMo keeps what was recognised beside the reference
TRN = re.compile(r"(.*)\(([^()\s]+)\)\s*")  # sclite: the id stands behind the text


class Texts(dict[str, str]):
    """Texts by id, words separated by single spaces; `layout` says how the file was read."""

    def __init__(self, texts: dict[str, str], layout: str, has_ids: bool = True):
        super().__init__(texts)
        self.layout, self.has_ids = layout, has_ids


def read_texts(path: str | Path, predicted: bool = False) -> Texts:
    """Texts of any layout named in the help of `asr.score`; lines without ids become "line 1" ...

    Args:
        path: file or folder.
        predicted: take the recognised text of a NeMo manifest, not the reference beside it.

    Raises:
        ValueError: unreadable, damaged, an id that occurs twice, a row without its text.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, predicted)
    content = _content(path)
    lines = content.removesuffix("\n").split("\n")  # and at no other character: texts may hold U+2028 or NEL
    filled = [line for line in lines if line.strip()]
    fields = PREDICTED if predicted else TEXTS
    if filled and filled[0].lstrip()[0] in "{[" and (rows := _json_rows(path, content, filled)) is not None:
        return _by_id(path, rows, fields, "JSON")
    if filled and (table := _table(path, content, fields)):
        return table
    return _without_header(path, lines, filled)


def _content(path: Path) -> str:
    try:
        # Bytes that are no UTF-8 may stand in the names of files; in texts they are refused.
        return path.read_bytes().decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


# -- layouts -----------------------------------------------------------------------------------------------


def _folder(folder: Path, predicted: bool) -> Texts:
    """Texts of the files in a folder, by their names; of several kinds the first that is there."""
    found = {kind: _files(folder, kind) for kind in (".trans.txt", ".txt", ".trn", ".json")}
    texts: dict[str, str] = {}
    kind = next((kind for kind, files in found.items() if files), None)
    if kind is None:
        raise ValueError(f"{folder}: no .txt, .trn or .json files in this folder")
    files = found[kind] + (found[".txt"] if kind == ".trans.txt" else [])
    for file in files:
        if file.suffix == ".txt" and not file.name.endswith(".trans.txt"):
            more = {file.stem: _words(file, _content(file))}
        else:
            more = read_texts(file, predicted)
        if twice := sorted(texts.keys() & more.keys()):
            raise ValueError(f"{file}: the id {twice[0]} occurs twice in {folder}")
        texts |= more
    return Texts(texts, f"a folder of {len(files)} {kind} files")


def _files(folder: Path, kind: str) -> list[Path]:
    files = (file for file in folder.rglob(f"*{kind}") if not file.name.startswith("."))
    return sorted(file for file in files if kind != ".txt" or not file.name.endswith(".trans.txt"))


def _json_rows(path: Path, content: str, filled: list[str]) -> list[dict] | None:
    """Objects of a JSON file or of JSON lines; None where lines merely begin with a bracket."""
    try:
        value = json.loads(content)
    except json.JSONDecodeError:
        value = None
    if isinstance(value, dict):
        return [{"id": path.stem, **value} if "segments" in value else value]  # ours is named after its recording
    if value is None:
        if filled[0].lstrip().startswith("["):
            return None
        value = list(_json_lines(path, content))
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ValueError(f"{path}: is JSON, but not objects with an id and a text")
    return value


def _json_lines(path: Path, content: str) -> Iterator[object]:
    for number, line in enumerate(content.split("\n"), start=1):
        try:
            if line.strip():
                yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is not JSON ({error.msg})") from None


def _table(path: Path, content: str, fields: tuple[str, ...]) -> Texts | None:
    """Rows under a header with tabs or commas; None without one that names id and text."""
    for kind, options in (("tab", {"delimiter": "\t", "quoting": csv.QUOTE_NONE}), ("comma", {"strict": True})):
        rows = csv.reader(io.StringIO(content.lstrip("\n"), newline=""), **options)
        try:
            header = [name.strip().lower() for name in next(rows)]
            if not set(header) & set(IDS) or not set(header) & set(fields):
                continue
            return _by_id(path, _rows(path, header, rows), fields, f"a table separated by {kind}s")
        except csv.Error as error:
            if kind == "comma" and rows.line_num > 1:
                raise ValueError(f"{path}: line {rows.line_num} is not CSV ({error})") from None
    return None


def _rows(path: Path, header: list[str], rows: Iterable[list[str]]) -> Iterator[dict[str, str]]:
    for row in rows:
        if not any(value.strip() for value in row):
            continue
        if len(row) > len(header):
            remedy = "put texts that hold commas between quotes"
            raise ValueError(f"{path}: {len(row)} fields under {len(header)} columns in {row[0]!r}; {remedy}")
        yield dict(zip(header, row, strict=False))


def _without_header(path: Path, lines: list[str], filled: list[str]) -> Texts:
    if path.suffix == ".trn":
        filled = [line for line in filled if not line.startswith(";;")]  # comments of sclite
    behind = [TRN.fullmatch(line) for line in filled]
    if filled and all(behind) and (path.suffix == ".trn" or all(_is_id(match[2]) for match in behind)):
        rows = ({"id": match[2], "text": match[1]} for match in behind)
        return _by_id(path, rows, TEXTS, "sclite trn, ids in brackets behind the texts")
    if filled and all("\t" in line for line in filled):
        rows = (dict(zip(("id", "text"), line.split("\t", 1), strict=True)) for line in filled)
        return _by_id(path, rows, TEXTS, "ids, tabs and texts")
    if filled and all(_is_id(line.split()[0]) for line in filled):
        return with_ids(path, filled)
    texts = {f"line {number}": _words(path, line) for number, line in enumerate(lines, start=1)}
    return Texts(texts if filled else {}, "one text a line, without ids", has_ids=False)


def with_ids(path: Path, lines: Iterable[str]) -> Texts:
    """Lines whose first word is the id (Kaldi, LibriSpeech)."""
    rows = ({"id": id, "text": " ".join(text)} for id, *text in map(str.split, lines))
    return _by_id(path, rows, TEXTS, "the first word of a line is its id")


def _is_id(word: str) -> bool:
    """Whether a word can only be an id: BAC009S0002W0122, 1272-128104-0000, speaker_3; but not mid-90s or covid-19."""
    runs = re.findall(r"\d+", word)
    if not runs or "'" in word:
        return False
    joined = any(mark in word for mark in "_/")
    padded = any(len(run) > 2 and run.startswith("0") for run in runs)
    many = len(runs) > 2 or (len(runs) > 1 and sum(map(len, runs)) > 4)
    return joined or padded or many


def _by_id(path: Path, rows: Iterable[dict], fields: tuple[str, ...], layout: str) -> Texts:
    texts: dict[str, str] = {}
    used: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        id_field = next((name for name in IDS if row.get(name) not in (None, "")), None)
        field = next((name for name in fields if name in row), None)
        if id_field is None:
            raise ValueError(f"{path}: row {number} has neither id nor path")
        if field is None:
            raise ValueError(f"{path}: row {number} ({row[id_field]}) has no {' or '.join(fields)}")
        id = str(row[id_field]).strip()
        id = Path(id).stem if is_audio(id) else id
        if id in texts:
            raise ValueError(f"{path}: the id {id} occurs twice")
        texts[id] = _words(path, str(row[field] or ""))
        used |= {id_field: None, field: None}
    named = "" if set(used) <= {"id", "text"} else f", {' and '.join(used)}"
    return Texts(texts, layout + named)


def _words(path: Path, text: str) -> str:
    """The text with single spaces, whatever kind of space it had.

    Raises:
        ValueError: it is not UTF-8.
    """
    if re.search("[\udc80-\udcff]", text):
        raise ValueError(f"{path}: is not UTF-8 text")
    return " ".join(text.split())


# -- pairs -------------------------------------------------------------------------------------------------


def read_pair(reference: str | Path, hypothesis: str | Path) -> tuple[Texts, Texts]:
    """References and hypotheses. Lines whose first words are the same set in another order are read as having ids.

    Raises:
        ValueError: as `read_texts`.
    """
    both = read_texts(reference), read_texts(hypothesis, predicted=True)
    if not any(texts.has_ids for texts in both):
        first = [[text.split()[0] for text in texts.values() if text] for texts in both]
        same = sorted(first[0]) == sorted(first[1]) and len(set(first[0])) == len(first[0])
        if same and first[0] != first[1]:
            paths = (Path(reference), Path(hypothesis))
            return tuple(with_ids(p, filter(None, t.values())) for p, t in zip(paths, both, strict=True))
    return both


def pair(references: dict[str, str], hypotheses: dict[str, str]) -> tuple[list[str], list[str]]:
    """Ids in the references without a hypothesis, and the other way round.

    Raises:
        ValueError: nothing can be paired, or lines without ids differ in number.
    """
    if not references:
        raise ValueError("there are no references")
    missing = [id for id in references if id not in hypotheses]
    extra = [id for id in hypotheses if id not in references]
    if (missing or extra) and all(id.startswith("line ") for id in (*references, *hypotheses)):
        lines = f"{len(references)} lines of references and {len(hypotheses)} of hypotheses"
        raise ValueError(f"{lines} cannot be paired; there must be as many")
    if references and len(missing) == len(references):
        example = repr(extra[0]) if extra else "none"
        raise ValueError(f"no id in common: references have {missing[0]!r}, hypotheses {example}")
    return missing, extra
