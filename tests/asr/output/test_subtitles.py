from asr.output.subtitles import USUAL, LineLimits, word_cues
from asr.output.transcript import Word

TEXT = (
    "The ship left the harbour at dawn, and nobody on board knew where it was going. When the fog came, the "
    "captain rang the bell twice; then there was silence for a long time, longer than anyone could bear."
)


def said(text: str, step: float = 0.3) -> list[Word]:
    return [Word(word, i * step, (i + 1) * step, 0.9) for i, word in enumerate(text.split())]


def test_nothing_is_lost_and_lines_keep_to_their_limits():
    cues = list(word_cues(said(TEXT), USUAL))
    assert " ".join(cue.text.replace("\n", " ") for cue in cues) == TEXT
    for cue in cues:
        lines = cue.text.split("\n")
        assert len(lines) <= 2 and max(map(len, lines)) <= 42
        assert cue.end - cue.start <= 7.0


def test_cues_end_where_sentences_and_clauses_do():
    cues = list(word_cues(said(TEXT), USUAL))
    assert [cue.text[-1] in ".,;" for cue in cues].count(True) >= len(cues) - 1
    assert cues[0].text == "The ship left the harbour at dawn, and\nnobody on board knew where it was going."


def test_two_lines_are_broken_at_a_comma():
    (cue,) = word_cues(said("When the fog came, the captain rang the bell twice"), USUAL)
    assert cue.text == "When the fog came,\nthe captain rang the bell twice"


def test_a_pause_is_a_place_to_break():
    words = said("one two three four five six seven eight nine ten eleven twelve")
    words = words[:9] + [word.shifted(1.0) for word in words[9:]]
    first, second = word_cues(words, LineLimits(max_line_width=50))
    assert first.text.endswith("nine") and second.text.startswith("ten")


def test_a_long_silence_ends_a_cue():
    words = [Word("before", 0.0, 0.5, 1.0), Word("after", 9.0, 9.5, 1.0)]
    assert [cue.text for cue in word_cues(words, USUAL)] == ["before", "after"]


def test_a_word_wider_than_a_line_stands_alone():
    cues = list(word_cues(said("a Donaudampfschifffahrtsgesellschaft b"), LineLimits(max_line_width=10)))
    assert [cue.text for cue in cues] == ["a", "Donaudampfschifffahrtsgesellschaft", "b"]
