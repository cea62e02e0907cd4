"""Read texts by utterance id: reference and hypothesis files in the layouts the field uses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from asr.audio.formats import is_audio


def read_texts(path: str | Path) -> dict[str, str]:
    """Texts by id, of any layout named in the help of `asr.score`; lines without ids become "line 1" ...

    Raises:
        ValueError: unreadable, an unknown layout or an id that occurs twice.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text") from None
    filled = [line for line in lines if line.strip()]
    header = filled[0].split("\t") if filled else []
    if filled and filled[0].lstrip().startswith("{"):
        return _by_id(path, _json_rows(path, filled))
    if "text" in header and {"id", "path"} & set(header):
        rows = (dict(zip(header, line.split("\t"), strict=False)) for line in filled[1:])
        return _by_id(path, rows)
    if filled and all("\t" in line for line in filled):
        rows = (dict(zip(("id", "text"), line.split("\t", 1), strict=True)) for line in filled)
        return _by_id(path, rows)
    if filled and all(_starts_with_id(line) for line in filled):
        return _by_id(path, ({"id": id, "text": " ".join(text)} for id, *text in map(str.split, filled)))
    return {f"line {number}": line.strip() for number, line in enumerate(lines, start=1)}


def _read_folder(folder: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for file in sorted(folder.rglob("*.txt")):
        if file.name.endswith(".trans.txt"):
            texts |= read_texts(file)
        else:
            texts[file.stem] = " ".join(file.read_text(encoding="utf-8").split())
    if not texts:
        raise ValueError(f"{folder}: no .txt files in this folder")
    return texts


def _starts_with_id(line: str) -> bool:
    """Whether the first field looks like 1272-128104-0000 or speaker_3: a digit and a joint."""
    first = line.split(maxsplit=1)[0]
    return any(c.isdigit() for c in first) and any(c in first for c in "-_/") and "'" not in first


def _json_rows(path: Path, lines: list[str]) -> Iterator[dict]:
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is not JSON ({error.msg})") from None


def _by_id(path: Path, rows: Iterable[dict]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for row in rows:
        id = str(row.get("id") or row.get("path") or "")
        if is_audio(id):
            id = Path(id).stem
        if not id:
            raise ValueError(f"{path}: a row has neither id nor path")
        if id in texts:
            raise ValueError(f"{path}: the id {id} occurs twice")
        texts[id] = str(row.get("text") or "").strip()
    return texts


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
