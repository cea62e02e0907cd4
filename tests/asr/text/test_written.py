"""Case and punctuation of a recogniser's text on a reference's words."""

import random

import pytest

from asr.text.written import carry_over, cut, difference, is_plain, pieces

CASES = {
    "equal words": ("well known self respect", "Well-known, self-respect.", "Well-known, self-respect."),
    "quotes and curly apostrophes": ("HE SAID I'M NOT GOING", "“He said I’m not going!”", "“He said I’m not going!”"),
    "numbers as written": (
        "in nineteen eighty four i paid five dollars for it",
        "In 1984, I paid $5 for it.",
        "In 1984, I paid $5 for it.",
    ),
    "numbers beside mistakes": (
        "in nineteen eighty four i payed five dollars for that",
        "In 1984, I paid $5 for it.",
        "In 1984, I payed $5 for that.",
    ),
    "another number": ("five men went", "9 men went.", "Five men went."),
    "ordinals": ("west tenth street", "West 10th Street.", "West 10th Street."),
    "titles": ("nor is mister quilter's manner", "Nor is Mr. Kultur's manner.", "Nor is Mr. Quilter's manner."),
    "abbreviations": ("at ten thirty p m sharp", "At 10:30 P.M. sharp.", "At 10:30 P.M. sharp."),
    "names keep their capital": ("he saw new york", "He saw New Yorke.", "He saw New York."),
    "spelling of the reference": ("the colour of it", "The color of it.", "The colour of it."),
    "contractions of the reference": ("i will go", "I'll go.", "I will go."),
    "missing first word": ("and the man went there", "The man went there.", "And the man went there."),
    "missing last word": ("the man went there", "The man went.", "The man went there."),
    "missing word in a compound": (
        "well known a self respect",
        "Well-known self-respect.",
        "Well-known a self-respect.",
    ),
    "extra first words": ("the man went", "So, the man went.", "The man went."),
    "extra last words": ("he went home", "He went home, yeah.", "He went home."),
    "extra sentence": ("he left and then he slept", "He left. Yes. And then he slept!", "He left. And then he slept!"),
    "repetition": ("the sea", "The sea. The sea. The sea.", "The sea."),
    "i stands out": ("i said it again i'm late", "A said it again. Am late.", "I said it again. I'm late."),
    "poorly heard": (
        "THERE WAS SOMETHING ABOUT THE WOMAN THAT MADE HIM UNEASY",
        "There was, something like a bowman meeting them. You're easy.",
        "There was, something about the woman that made him uneasy.",
    ),
    "no compound of words not heard": ("on the way we must", "On the well-wheel must.", "On the way we must."),
    "odd quotes": ("don't cry he said", "Don't cry.\" He said.", "Don't cry. He said."),
    "nothing heard": ("hello there", "", "Hello there"),
    "nothing said": ("", "Thank you.", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_words_of_the_reference_case_and_marks_of_the_text(case):
    reference, recognised, expected = CASES[case]
    assert carry_over(reference, recognised) == expected


def test_words_never_change():
    """Whatever was recognised, the words of the result are the reference's."""
    rng = random.Random(0)
    words = "the a of sea man and i'm went won't Captain".lower().split()
    marks = ["", "", "", ",", ".", "?", "!", "...", ";", " -", '"']
    for _ in range(300):
        reference = " ".join(rng.choices(words, k=rng.randint(1, 12)))
        heard = [w.capitalize() if rng.random() < 0.3 else w for w in rng.choices(words, k=rng.randint(0, 12))]
        written = carry_over(reference, " ".join(word + rng.choice(marks) for word in heard))
        assert [piece.plain for piece in pieces(written)[1]] == reference.split(), (reference, heard, written)
        assert written == written.strip() and "  " not in written


def test_a_window_is_cut_where_utterances_end():
    references = ["HE HAS GRAVE DOUBTS WHETHER", "luminous is the expression", "on the general principles"]
    window = "He has graved doubts, whether. Luminous is the expression on the General Principle."
    assert cut(references, window) == [
        "He has graved doubts, whether.",
        "Luminous is the expression",
        "on the General Principle.",
    ]
    assert cut(["one", "two", "three"], "One. Three.") == ["One.", "", "Three."]
    assert cut(["one", "two"], "") == ["", ""]


def test_plain_text_is_told_from_written():
    assert all(map(is_plain, ("HELLO THERE", "hello there", "it's nineteen eighty")))
    assert not any(map(is_plain, ("Hello there", "hello, there", "I saw it")))


def test_difference_ignores_how_it_is_written():
    assert difference("It cost $5, Mr. Smith!", "it cost five dollars mister smith") == 0
    assert difference("they came to see it", "they come to see it now") == pytest.approx(2 / 6)
    assert difference("", "") == 0 and difference("word", "") == 1
