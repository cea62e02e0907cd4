"""The canvas pass by pass: the picture that explains denoising, for a terminal and as a page.

Each row is a pass. Tokens of the draft that were kept, tokens committed just now and earlier, masks, and slots that
stay empty are told apart by colour and, where there is none, by brackets.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from asr.audio.io import atomic_path
from asr.dllm.loop import Denoised, SpecialTokens
from asr.parts import Vocabulary

COLOURS = {"draft": "36", "new": "1;32", "earlier": "0", "mask": "2", "empty": "2"}
STYLE = """body{font:15px/1.9 monospace;margin:2em} td{padding:0 .5em;vertical-align:top} .pass{color:#888}
.draft{color:#067} .new{background:#bfb} .mask{color:#aaa} .empty{color:#ccc}"""

Cell = tuple[str, str]  # kind (a key of COLOURS) and text of a slot


def passes(result: Denoised, row: int, tokenizer: Vocabulary) -> Iterator[list[Cell]]:
    """Cells of the canvas of one utterance: as it began, then after each pass in which something was committed."""
    start = result.start[row].tolist()
    end = _end(start, result, row)
    yield [_cell(token, "draft", tokenizer, result.special) for token in start[:end]]
    for step in result.trace:
        if not step.committed[row].any():
            continue
        tokens, fresh = step.tokens[row].tolist(), step.committed[row].tolist()
        kinds = (
            "new" if new else "draft" if token == first else "earlier"
            for token, new, first in zip(tokens, fresh, start, strict=True)
        )
        shown = list(zip(tokens, kinds, strict=True))[:end]
        yield [_cell(token, kind, tokenizer, result.special) for token, kind in shown]


def _end(start: list[int], result: Denoised, row: int) -> int:
    """Slots worth showing: up to the end of the text."""
    tokens = result.trace[-1].tokens[row].tolist() if result.trace else start
    end = result.special.end
    return tokens.index(end) if end in tokens else len(tokens)


def _cell(token: int, kind: str, tokenizer: Vocabulary, special: SpecialTokens) -> Cell:
    if token == special.mask:
        return "mask", "·"
    if token == special.null:
        return "empty", "_"
    return kind, "⏹" if token == special.end else tokenizer.piece(token)


def as_text(result: Denoised, tokenizer: Vocabulary, colour: bool) -> str:
    """All utterances of a batch, a line a pass; without colour, what a pass committed stands in brackets."""
    lines = []
    for row in range(len(result.start)):
        for number, cells in enumerate(passes(result, row, tokenizer)):
            name = f"pass {number}" if number else "draft "
            lines.append(f"{name} |" + "".join(_plain(cell, colour) for cell in cells))
        lines.append(f"text   | {tokenizer.decode(result.tokens[row])}\n")
    return "\n".join(lines)


def _plain(cell: Cell, colour: bool) -> str:
    kind, text = cell
    if colour:
        return f"\x1b[{COLOURS[kind]}m{text}\x1b[0m"
    if kind != "new":
        return text
    return f" [{text[1:]}]" if text.startswith(" ") else f"[{text}]"


def table_rows(result: Denoised, row: int, tokenizer: Vocabulary) -> list[str]:
    """Rows of an HTML table for one utterance: the draft, each pass, the text; kinds of cells are CSS classes."""
    lines = []
    for number, cells in enumerate(passes(result, row, tokenizer)):
        spans = "".join(_span(*cell) for cell in cells)
        lines.append(f'<tr><td class="pass">{f"pass {number}" if number else "draft"}</td><td>{spans}</td></tr>')
    text = html.escape(tokenizer.decode(result.tokens[row]))
    return [*lines, f'<tr><td class="pass">text</td><td><b>{text}</b></td></tr>']


def _span(kind: str, text: str) -> str:
    """A cell; the space before a word stays outside, so that a background has the word's width."""
    space = " " if text.startswith(" ") else ""
    return f'{space}<span class="{kind}">{html.escape(text[len(space) :])}</span>'


class Figure:
    """A page that grows by every batch and is whole after each.

    Args:
        path: HTML file to write.
        tokenizer: vocabulary of the canvas.
    """

    def __init__(self, path: Path, tokenizer: Vocabulary):
        self.path, self.tokenizer, self.tables = path, tokenizer, []

    def add(self, result: Denoised) -> None:
        """Write the page with one more batch. Raises OSError where it cannot be written."""
        for row in range(len(result.start)):
            self.tables.append("<table>" + "\n".join(table_rows(result, row, self.tokenizer)) + "</table><hr>")
        page = f"<!doctype html><meta charset=utf-8><title>Denoising</title><style>{STYLE}</style>\n"
        with atomic_path(self.path) as partial:
            partial.write_text(page + "\n".join(self.tables), encoding="utf-8")
