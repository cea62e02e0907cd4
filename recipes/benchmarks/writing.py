"""Case and punctuation restored to plain text: F1 beside the written text, how fast, and weights for the decisions.

    python -m recipes.benchmark writing written_dev.txt.xz --model outputs/writing/model --tune
    python -m recipes.benchmark writing written_dev.txt.xz --pairs data/pairs/written     # recognised speech as well

The words of the text lose case and punctuation and are restored as one running text; once more after words were lost,
misspelt and confused at the rates given; and line by line, where every line is known to end. With --tune the biases of
commas and of sentence ends are chosen on the first half of the text; F1 is given for the second half and for all.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from asr.console.program import program
from recipes.evaluation.side_by_side import make_parser, table, write_json

KINDS = ("ends", "commas", "questions", "capitals")
BIASES = (-0.6, -0.3, 0.0, 0.3, 0.6, 0.9)
WORDS_A_SECOND = 2.5  # of speech, for the real-time factor


def f1_of(said, found: tuple[list[int], list[int]]) -> dict[str, float]:
    """F1 of the tags of a text (`dlm.tags.Tagged`) against (marks, cases) found for its words."""
    from dlm.tags import ENDS, LOWER, MARKS

    marks, cases = np.array(found[0]), np.array(found[1])
    wanted, right = np.array(said.marks), np.array(said.cases)
    masks = {
        "ends": (np.isin(wanted, ENDS), np.isin(marks, ENDS)),
        "commas": (wanted == MARKS.index(","), marks == MARKS.index(",")),
        "questions": (wanted == MARKS.index("?"), marks == MARKS.index("?")),
        "capitals": (right != LOWER, cases != LOWER),
    }
    return {kind: float(2 * (a & b).sum() / max(1, a.sum() + b.sum())) for kind, (a, b) in masks.items()}


def joined(texts: list):
    """Tagged texts as one."""
    from dlm.tags import Tagged

    return Tagged(*([tag for text in texts for tag in getattr(text, name)] for name in ("words", "marks", "cases")))


def part(text, first: int, last: int):
    from dlm.tags import Tagged

    return Tagged(text.words[first:last], text.marks[first:last], text.cases[first:last])


def tuned(restorer, text) -> dict[str, float]:
    """Biases with the best sum of F1 of ends and commas on a text."""
    from dlm.restorer import Restorer

    scores = restorer.scores([text.words])[0]
    best = (-1.0, {})
    for comma, end in product(BIASES, BIASES):
        biases = {**restorer.options.biases, ",": comma, ".": end, "?": end, "!": end}
        f1 = f1_of(text, Restorer(restorer.model, replace(restorer.options, biases=biases)).choose(*scores))
        best = max(best, (f1["ends"] + f1["commas"] + f1["capitals"], biases), key=lambda pair: pair[0])
    return best[1]


def store_biases(folder: Path, biases: dict[str, float]) -> None:
    """Keep biases in the configuration of a model folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    options = {**(config.get("options") or {}), "biases": biases}
    write_json(folder / "config.json", {**config, "options": options})


def recognised(restorer, folder: str) -> dict[str, float | None]:
    """F1 of recognised speech, its writing removed and restored, against the written texts that were spoken."""
    from dlm.tags import tagged
    from recipes.evaluation.written import writing
    from recipes.tasks.correction import read_pairs

    rows = read_pairs(folder)
    heard = [" ".join(tagged(found[0]).words) for _, found in rows]
    measured = writing([text for text, _ in rows], [c.text for c in restorer.correct(heard)])
    f1 = measured["f1"] if measured else {}
    return dict(zip(KINDS, (f1.get(key) for key in ("ends", ",", "?", "capitals")), strict=True))


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("writing", __doc__)
    parser.add_argument("text", help="written sentences in reading order, one a line (.xz is read too)")
    parser.add_argument("--model", help="writing model (default: the one that ships)")
    parser.add_argument("--tune", action="store_true", help="choose biases on the first half, into the model")
    parser.add_argument("--rates", nargs="*", type=float, default=[0.1, 0.2, 0.4], help="shares of words misheard")
    parser.add_argument("--pairs", help="folder of pairs with written texts (python -m dlm.synthesize)")
    parser.add_argument("--limit", type=int, help="sentences (default: all)")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args(argv)
    result = measure(args)
    rows = [[name, *("-" if f1[k] is None else f"{f1[k]:.3f}" for k in KINDS)] for name, f1 in result["f1"].items()]
    print(table(["F1", *KINDS], rows))
    print(f"biases {result['biases']}; {result['words_per_second']:.0f} words a second of processor time, real-time "
          f"factor {result['real_time_factor']:.5f} at {WORDS_A_SECOND} words a second of speech")
    if args.out:
        write_json(args.out, result)
    return 0


def measure(args) -> dict:
    """F1 by kind of input, biases, speed."""
    import torch

    from dlm.restorer import Restorer
    from dlm.tags import tagged
    from recipes.data.corpora import read_sentences
    from recipes.tasks.writing import Mishearing

    torch.set_num_threads(1)
    restorer = Restorer.from_pretrained(args.model)
    lines = [text for text in map(tagged, read_sentences(args.text)[: args.limit]) if text.words]
    whole = joined(lines)
    half = len(whole.words) // 2
    if args.tune:
        restorer = Restorer(restorer.model, replace(restorer.options, biases=tuned(restorer, part(whole, 0, half))))
        if args.model:
            store_biases(Path(args.model), restorer.options.biases)
    started = time.process_time()
    found = restorer.tags([whole.words])[0]
    seconds = time.process_time() - started
    rows = {"running text": f1_of(whole, found)}
    rows["  second half"] = f1_of(part(whole, half, None), tuple(column[half:] for column in found))
    alone = restorer.tags([text.words for text in lines])
    rows["line by line"] = f1_of(whole, tuple([tag for tags in alone for tag in tags[i]] for i in range(2)))
    for rate in args.rates:
        misheard = Mishearing(share=1.0, rate=(rate, rate))(whole, np.random.default_rng(0))
        rows[f"{rate:.0%} of words misheard"] = f1_of(misheard, restorer.tags([misheard.words])[0])
    if args.pairs:
        rows["recognised"] = recognised(restorer, args.pairs)
    speed = len(whole.words) / seconds
    biases = dict(restorer.options.biases)
    return {"f1": rows, "biases": biases, "words_per_second": speed, "real_time_factor": WORDS_A_SECOND / speed}


if __name__ == "__main__":
    sys.exit(main())
