"""Recognisers as labellers: packed windows with one that knows tones, and tiny random models of transformers."""

import json

import numpy as np
import pytest

from recipes.data.labellers import LONGEST, PAUSE, Word, _Packing, load_labeller, pack, share, window_of

NAMES = {200: "Alpha", 300: "bravo", 400: "charlie,", 500: "Delta."}


def sing(*names: str, seconds: float = 0.5) -> np.ndarray:
    """Half a second of a tone for each word."""
    pitches = {name.strip(",.").lower(): pitch for pitch, name in NAMES.items()}
    time = np.arange(round(seconds * 16000)) / 16000
    return np.concatenate([0.2 * np.sin(2 * np.pi * pitches[name] * time) for name in names]).astype(np.float32)


class Listener(_Packing):
    """Hears the tones of a window and writes their names; counts the windows."""

    def __init__(self, batch: int = 2):
        self.batch, self.windows, self.timed = batch, [], []

    def hear(self, windows, timed):
        self.windows += windows
        self.timed.append(timed)
        return [self._words(window) for window in windows]

    def _words(self, window: np.ndarray) -> list[Word]:
        words, step = [], 1600
        for start in range(0, len(window) - step + 1, step):
            part = window[start : start + step]
            if np.abs(part).max() < 0.01:
                words.append(None)
                continue
            pitch = np.fft.rfft(part * np.hanning(step)).__abs__().argmax() * 10
            name = NAMES[min(NAMES, key=lambda known: abs(known - pitch))]
            if words and words[-1] and words[-1].text == f" {name}" and start / 16000 - words[-1].start < 0.45:
                words[-1] = Word(words[-1].text, words[-1].start, (start + step) / 16000)
            else:
                words.append(Word(f" {name}", start / 16000, (start + step) / 16000))
        return [word for word in words if word]


def test_short_recordings_share_windows_in_order():
    seconds = [10, 10, 5, 20, 40, 1, 1]
    windows = pack(seconds)
    assert windows == [[0, 1, 2], [3], [4], [5, 6]]
    assert all(sum(seconds[i] for i in w) + PAUSE * (len(w) - 1) <= LONGEST for w in windows if len(w) > 1)
    assert pack([]) == []


def test_a_window_holds_its_recordings_at_one_level():
    loud, quiet = sing("alpha"), 0.01 * sing("bravo", "delta")
    window, spans = window_of([loud, quiet])
    assert spans == [(0.0, 0.5), (0.5 + PAUSE, 1.5 + PAUSE)]
    parts = [window[round(a * 16000) : round(b * 16000)] for a, b in spans]
    levels = [np.sqrt(np.mean(part**2)) for part in parts]
    assert levels == pytest.approx([0.06, 0.06], rel=0.01)
    assert not window[8000 : round((0.5 + PAUSE) * 16000)].any()


def test_words_go_to_the_recording_they_overlap():
    words = [Word(" One", 0.0, 0.9), Word(" two.", 0.9, 2.3), Word(" Three", 1.6, 2.9), Word(" four", 3.5, 3.6)]
    assert share(words, [(0.0, 1.0), (2.0, 3.0)]) == ["One", "two. Three four"]
    assert share([], [(0.0, 1.0)]) == [""]


@pytest.mark.parametrize("known", [False, True])
def test_packed_recordings_get_their_own_texts(known):
    said = [("alpha", "bravo") * 6, ("charlie", "delta"), ("bravo",) * 45, ("delta",), (), ("alpha",)]
    waves = [sing(*words) if words else np.zeros(8000, np.float32) for words in said]
    labeller = Listener()
    texts = labeller.transcribe(waves, [" ".join(words) for words in said] if known else None)
    assert texts == [" ".join(["Alpha bravo"] * 6), "charlie, Delta.", " ".join(["bravo"] * 45), "Delta.", "", "Alpha"]
    assert len(labeller.windows) == 2 and labeller.timed == [not known]


def test_without_recordings_nothing_is_heard():
    assert Listener().transcribe([]) == []


# -- models of transformers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_whisper(tmp_path_factory):
    """A random Whisper whose vocabulary are bytes, without alignment heads, as many converted checkpoints are."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    folder = tmp_path_factory.mktemp("whisper")
    vocabulary = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = WhisperTokenizer(vocab=vocabulary | {"<|endoftext|>": 256}, merges=[])
    tokenizer.add_tokens(["<|startoftranscript|>", "<|notimestamps|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_target_positions=40,
        pad_token_id=256, bos_token_id=256, eos_token_id=256, decoder_start_token_id=257,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config.update(no_timestamps_token_id=258, max_length=24, is_multilingual=False)
    model.generation_config.update(suppress_tokens=[256, 257, 258], begin_suppress_tokens=None)
    model.save_pretrained(folder)
    return folder


def test_whisper_of_transformers(tiny_whisper):
    labeller = load_labeller(tiny_whisper, compute_type="float32", batch=2)
    waves = [sing("alpha"), sing("bravo", "delta"), sing(*["charlie"] * 54)]
    alone = labeller.transcribe(waves[2:])
    packed = labeller.transcribe(waves)
    assert alone == packed[2:] and alone[0]
    (words, _) = labeller.hear([window_of(waves[:2])[0], waves[2]], timed=True)
    (untimed, _) = labeller.hear([window_of(waves[:2])[0], waves[2]], timed=False)
    assert "".join(word.text for word in words).strip() == "".join(word.text for word in untimed).strip()
    assert all(0 <= word.start <= word.end <= 30 for word in words)


def test_times_of_tokens_are_when_they_end(tiny_whisper):
    import torch

    labeller = load_labeller(tiny_whisper, compute_type="float32")
    tokens = labeller.processor.tokenizer("so be it", add_special_tokens=False).input_ids  # bytes
    times = [0.1, 0.5, 0.6, 0.8, 1.0, 2.0, 2.1, 2.5, 2.5]
    words = labeller._words(torch.tensor([*tokens, 256]), torch.tensor(times))
    assert [word.text for word in words] == ["so", " be", " it"]
    assert [word.start for word in words] == pytest.approx([0, 0.5, 1.0])
    assert [word.end for word in words] == pytest.approx([0.5, 1.0, 2.5])


@pytest.fixture(scope="module")
def tiny_ctc(tmp_path_factory):
    """A random wav2vec 2.0 with capital letters, as the published ones have."""
    import torch
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("wav2vec2")
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[16] * 7,
        vocab_size=len(letters), pad_token_id=0, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config)
    model.lm_head.weight.data *= 30
    model.save_pretrained(folder)
    return folder


def test_ctc_model_of_transformers(tiny_ctc):
    labeller = load_labeller(tiny_ctc, compute_type="float32", batch=2)
    waves = [sing("alpha"), sing("bravo", "delta", "charlie"), sing("alpha")]
    texts = labeller.transcribe(waves)
    assert texts[0] == texts[2] and all(text == text.lower() for text in texts) and any(texts)


def test_what_is_no_recogniser_is_said(tmp_path):
    with pytest.raises(ValueError, match="neither a folder nor a Hub id"):
        load_labeller(tmp_path / "nothing")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is a bert model: name a recogniser"):
        load_labeller(tmp_path)
