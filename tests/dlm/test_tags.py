"""Written text as plain words and tags, and back."""

import pytest

from dlm.tags import CAPITAL, LOWER, MARKS, UPPER, tagged, written, written_forms


def tags(text):
    found = tagged(text)
    return list(zip(found.words, (MARKS[mark] for mark in found.marks), found.cases, strict=True))


def test_marks_and_cases_of_words():
    assert tags("Yes, the BBC did! Why?") == [
        ("yes", ",", CAPITAL), ("the", "", LOWER), ("bbc", "", UPPER), ("did", "!", LOWER), ("why", "?", CAPITAL),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ('"Where is he?" she said.', ["", "", "?", "", "."]),  # quotes go, their mark stays
        ("Mr. Smith came.", ["", "", "."]),  # a title ends nothing
        ("The U.S. army.", ["", "", "."]),
        ("well-known (and old), yes", ["", "", "", ",", ""]),
        ("No--never; so: he went on... at last...", ["—", ";", ":", "", "", "—", "", "."]),
        ("at 3.5 or 1,000 etc. and more", ["", "", "", "", "", "", ""]),
        ("", []),
    ],
)
def test_what_is_a_mark(text, marks):
    assert [mark for _, mark, _ in tags(text)] == marks


def test_plain_words_are_those_of_a_recogniser():
    words = ["the", "us", "paid", "$3.5", "to", "o'neill's", "cafe"]
    assert tagged("The U.S. paid $3.5 to O’Neill’s café.").words == words


def test_tagged_text_is_written_again():
    for text in ("Yes, I know. Is it BBC? No!", "He saw it; then: nothing."):
        found = tagged(text)
        assert " ".join(written(found.words, found.marks, found.cases, {})) == text


def test_forms_are_those_that_most_occurrences_have():
    texts = ["Mr. McDonald met Bob."] * 10 + ["Mcdonald MACDONALD."]
    assert written_forms(texts) == {"mcdonald": "McDonald", "mr": "Mr."}
    assert written_forms(texts, least=11) == {}
    assert written(["mr", "mcdonald"], [0, 2], [CAPITAL, CAPITAL], written_forms(texts)) == ["Mr.", "McDonald."]
    assert written(["mcdonald"], [0], [LOWER], written_forms(texts)) == ["mcdonald"]
