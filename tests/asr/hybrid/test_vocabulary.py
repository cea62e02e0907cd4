import json

from asr.hybrid.model import HybridModel
from asr.hybrid.vocabulary import cut_vocabulary


def test_the_cut_vocabulary_spells_everything(sentences, whole_tokenizer):
    whole = whole_tokenizer
    text, kept = cut_vocabulary(whole.to_str(), sentences[:2], at_least=1)
    assert len(text) < whole.get_vocab_size()
    for sentence in (*sentences, "Naïve café; 100 % über-cool…", "日本語 🙂"):
        assert text.decode(text.encode(sentence)) == sentence
    pieces = [whole.id_to_token(i) for i in kept[4:]]
    assert pieces == text.pieces[4:]


def test_kept_tokens_are_cut_where_whisper_cuts(sentences, whole_tokenizer):
    whole = whole_tokenizer
    text, kept = cut_vocabulary(whole.to_str(), sentences, at_least=1)
    for sentence in sentences:
        assert [kept[i] for i in text.encode(sentence)] == whole.encode(" " + sentence).ids


def test_a_merge_that_a_conversion_lost_is_found_again(sentences, whole_tokenizer):
    definition = json.loads(whole_tokenizer.to_str())
    merges = definition["model"]["merges"]
    lost = next(pair for pair in merges if len("".join(pair)) == 2 and pair[0] == "\u0120")
    definition["model"]["merges"] = [pair for pair in merges if pair != lost]
    text, kept = cut_vocabulary(json.dumps(definition), sentences, at_least=1)
    for sentence in sentences:
        assert [kept[i] for i in text.encode(sentence)] == whole_tokenizer.encode(" " + sentence).ids


def test_a_word_starts_behind_a_space(hybrid_folder):
    text = HybridModel.from_pretrained(hybrid_folder).tokenizer
    tokens = text.encode("The cat sat.")
    words = [[]]
    for token in tokens:
        if text.starts_word(token):
            words.append([])
        words[-1].append(token)
    assert [text.decode(word) for word in words[1:]] == ["The", "cat", "sat."]
