"""Transducers of transformers, tiny and random, against the plain loop over frames."""

import pytest
import soundfile
import torch

from asr.loading import load_recogniser
from asr.recogniser import DecodeOptions
from asr.text.tokenizer import Tokenizer
from asr.transcriber import Transcriber
from tests.asr.conftest import noise

SENTENCES = ["the cat sat on the mat", "a dog, and a cat.", "how are you?"] * 5


@pytest.fixture(scope="module", params=["RNNT", "TDT"])
def folder(tmp_path_factory, request):
    """A Parakeet that writes something."""
    import transformers
    from tokenizers import Tokenizer as Backend
    from transformers import ParakeetEncoderConfig, ParakeetFeatureExtractor, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp(request.param)
    backend = Backend.from_str(Tokenizer.train(SENTENCES, 60, written=True).definition)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<blank>"]})
    pad, blank = tokenizer.convert_tokens_to_ids(["<pad>", "<blank>"])
    encoder = ParakeetEncoderConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_kernel_size=9,
        subsampling_conv_channels=16, num_mel_bins=80, dropout=0, attention_dropout=0, layerdrop=0,
    )  # fmt: skip
    config = getattr(transformers, f"Parakeet{request.param}Config")(
        vocab_size=len(tokenizer), decoder_hidden_size=32, num_decoder_layers=1, encoder_config=encoder.to_dict(),
        pad_token_id=pad, blank_token_id=blank, max_symbols_per_step=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"ParakeetFor{request.param}")(config)
    for parameter in [*model.joint.parameters(), *model.decoder.parameters(), *model.encoder_projector.parameters()]:
        torch.nn.init.normal_(parameter, std=0.5)
    model.generation_config.decoder_start_token_id = blank
    model.save_pretrained(folder)
    ParakeetFeatureExtractor(feature_size=80).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.inference_mode()
def plain_loop(recogniser, wave) -> list[tuple[int, int]]:
    """Tokens and their frames by the definition of the search."""
    model, config = recogniser.model, recogniser.model.config
    inputs = recogniser.extractor([wave], sampling_rate=16_000, return_tensors="pt")
    heard = model.get_audio_features(**inputs, output_attention_mask=True)
    frames = heard.pooler_output[0][: int(heard.attention_mask.sum())]
    found, frame, symbols, state = [], 0, 0, None
    output, state = model.decoder.lstm(model.decoder.embedding(torch.tensor([[config.blank_token_id]])))
    while frame < len(frames):
        logits = model.joint(model.decoder.decoder_projector(output)[0, 0], frames[frame])
        token = int(logits[: config.vocab_size].argmax())
        if recogniser.has_durations:
            span = int(logits[config.vocab_size :].argmax())
            span = max(span, 1) if token == config.blank_token_id else span
        else:
            symbols = 0 if token == config.blank_token_id else symbols + 1
            span = int(token == config.blank_token_id or symbols >= config.max_symbols_per_step)
            symbols = 0 if span else symbols
        if token != config.blank_token_id:
            found.append((token, frame))
            output, state = model.decoder.lstm(model.decoder.embedding(torch.tensor([[token]])), state)
        frame += span
        if len(found) > 2000:
            break
    return found


def test_text_and_times_are_those_of_the_plain_loop(folder):
    recogniser, wave = load_recogniser(folder, "cpu"), noise(2)
    (utterance,) = recogniser.transcribe_batch([wave], DecodeOptions())
    found = [(t, f) for t, f in plain_loop(recogniser, wave) if t not in recogniser.silent]
    pieces = recogniser.tokenizer.convert_ids_to_tokens([token for token, _ in found])
    assert utterance.text == " ".join("".join(pieces).replace("\u2581", " ").split()) != ""
    starts = {round(frame * 0.08, 3) for _, frame in found}
    for word in utterance.words:
        assert round(word.start, 3) in starts
        assert word.start <= word.end <= 2 and 0 < word.confidence <= 1


def test_a_batch_ends_each_utterance_where_it_ends(folder):
    recogniser = load_recogniser(folder, "cpu")
    together = recogniser.transcribe_batch([noise(2), noise(0.7), noise(0.01)], DecodeOptions())
    for utterance, seconds in zip(together, (2, 0.7, 0.01), strict=True):
        assert " ".join(word.text for word in utterance.words) == utterance.text
        assert all(word.end <= seconds for word in utterance.words)


def test_a_long_file_goes_through_our_segments(folder, tmp_path):
    soundfile.write(tmp_path / "long.wav", noise(70), 16_000)
    from asr.audio.segment import Segmenter

    transcriber = Transcriber.from_pretrained(folder, "cpu", segmenter=Segmenter(onset=0, max_seconds=10))
    transcript = transcriber(tmp_path / "long.wav")
    assert len(transcript.segments) >= 7 and transcript.words[-1].end > 60
    times = [round(time, 6) for word in transcript.words for time in (word.start, word.end)]
    assert times == sorted(times)


def test_what_it_cannot_be_told_is_refused(folder):
    recogniser = load_recogniser(folder, "cpu")
    recogniser.prepare(DecodeOptions("greedy"))
    for told in ({"decoder": "beam"}, {"hotwords": ("cat",)}, {"temperature": 1.0}, {"initial_prompt": "Cat"}):
        with pytest.raises(ValueError, match="transducer|Whisper"):
            recogniser.prepare(DecodeOptions(**told))
