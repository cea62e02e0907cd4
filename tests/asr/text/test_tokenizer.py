from asr.text.tokenizer import WORD_MARK, Tokenizer


def test_words_are_separated_by_single_spaces():
    """A greedy path may hold a word mark of its own before a piece that brings another."""
    tokenizer = Tokenizer.train(["hello world"] * 4, vocabulary=64)
    mark = tokenizer.pieces.index(WORD_MARK)
    hello, world = tokenizer.encode("hello"), tokenizer.encode("world")
    assert tokenizer.starts_word(world[0])
    assert tokenizer.decode([mark, *hello, mark, *world, mark]) == "hello world"


def test_definitions_with_a_byte_order_mark(tmp_path):
    tokenizer = Tokenizer.train(["hello world"] * 4, vocabulary=64)
    (tmp_path / "units.json").write_text(tokenizer.definition, encoding="utf-8-sig")
    assert Tokenizer.load(tmp_path / "units.json").pieces == tokenizer.pieces
