"""Case and punctuation beside a written reference."""

import pytest

from recipes.evaluation.written import words, writing


def test_what_is_written_as_the_reference_is_all_right():
    text = 'Mr. Smith sat, "alone". Did he? He did!'
    measured = writing([text], [text])
    assert measured["capitalised"] == 1.0 and measured["starts"] == 3
    assert measured["f1"] == {".": 1.0, ",": 1.0, "?": 1.0, "ends": 1.0, "capitals": 1.0}


def test_capitals_and_marks_that_are_missing_or_too_many():
    measured = writing(["Hello there. How are you?"], ["hello, there. how are you."])
    assert measured["capitalised"] == 0.0
    assert measured["f1"] == {".": pytest.approx(2 / 3), ",": 0.0, "?": 0.0, "ends": 1.0, "capitals": 0.0}


def test_words_are_paired_by_what_they_say():
    measured = writing(["The cat sat. The dog ran."], ["Well the cat sat. The fog ran."])
    assert measured["capitalised"] == 0.5 and measured["f1"]["."] == 1.0  # the first begins with a small letter
    lost = writing(["The cat sat. The dog ran."], ["The cat dog ran."])
    assert lost["starts"] == 1 and lost["f1"]["."] == pytest.approx(2 / 3)


def test_references_without_writing_do_not_count():
    assert writing(["the cat sat", "THE CAT"], ["The cat sat.", "The cat."]) is None
    assert writing(["the cat sat", "The cat"], ["The cat sat.", "The cat"])["utterances"] == 1
    lost = writing(["The cat"], [""])
    assert (lost["utterances"], lost["starts"], lost["capitalised"]) == (1, 0, None)
    assert lost["f1"] == {".": None, ",": None, "?": None, "ends": None, "capitals": 0.0}


def test_marks_that_stand_alone_belong_to_the_word_before():
    assert [word.mark for word in words("Yes , he said - no .")] == [",", "", "", "."]
