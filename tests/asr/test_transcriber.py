"""The transcriber around a recogniser that names the pitch of what it hears."""

import platform
import resource
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from asr.audio.errors import AudioError
from asr.audio.segment import Segmenter
from asr.output.transcript import Word
from asr.recogniser import DecodeOptions, Utterance
from asr.transcriber import POOL_BATCHES, Transcriber

RATE = 16_000


class PitchRecogniser:
    """Says "p300" of a 300 Hz tone and notes the batches it was given."""

    def __init__(self, sampling_rate=RATE):
        self.sampling_rate = sampling_rate
        self.batches = []

    def transcribe_batch(self, waves, options):
        self.batches.append([len(wave) / self.sampling_rate for wave in waves])
        return [self._hear(wave, options) for wave in waves]

    def _hear(self, wave, options):
        loud = np.flatnonzero(np.abs(wave) > 0.01)
        if not len(loud):
            return Utterance("")
        pitch = np.argmax(np.abs(np.fft.rfft(wave))) / len(wave) * self.sampling_rate
        text = f"p{round(pitch, -1):.0f}"
        word = Word(text, loud[0] / self.sampling_rate, loud[-1] / self.sampling_rate, 0.9)
        nbest = [(text, -1.0), ("other", -2.0)]
        return Utterance(text, [word] if options.word_timestamps else [], -1.0, nbest)


@pytest.fixture
def transcriber(energy_detector):
    def make(recogniser=None, **kwargs):
        segmenter = Segmenter(detector=energy_detector, max_seconds=10)
        return Transcriber(recogniser or PitchRecogniser(), segmenter=segmenter, **kwargs)

    return make


@pytest.fixture
def melody(make_tone, make_silence):
    """melody(pitches, gap, seconds): tones with pauses between them."""

    def make(pitches, gap=2.0, seconds=1.0):
        parts = [make_silence(0.5)]
        for pitch in pitches:
            parts += [make_tone(pitch, seconds), make_silence(gap)]
        return np.concatenate(parts)

    return make


def write(path, wave, rate=RATE):
    soundfile.write(path, wave, rate)
    return path


def test_text_segments_and_words_agree_and_times_are_absolute(transcriber, melody):
    transcript = transcriber()(melody([300, 500, 700]), RATE)
    assert transcript.text == "p300 p500 p700"
    assert transcript.text == " ".join(segment.text for segment in transcript.segments)
    assert [word.text for word in transcript.words] == ["p300", "p500", "p700"]
    assert [word.start for word in transcript.words] == pytest.approx([0.5, 3.5, 6.5], abs=0.05)
    assert [word.end for word in transcript.words] == pytest.approx([1.5, 4.5, 7.5], abs=0.05)
    assert transcript.duration == pytest.approx(9.5)


def test_a_long_recording_says_what_its_segments_say(transcriber, melody, tmp_path):
    pitches = [200 + 10 * i for i in range(100)]
    recogniser = PitchRecogniser()
    path = write(tmp_path / "long.flac", melody(pitches))
    transcript = transcriber(recogniser, batch_size=4)(path)
    assert transcript.text == " ".join(f"p{pitch}" for pitch in pitches)
    assert max(map(len, recogniser.batches)) == 4


def test_files_share_batches_and_come_out_in_order(transcriber, melody, tmp_path):
    paths = [write(tmp_path / f"{i}.wav", melody([200 + 100 * i])) for i in range(6)]
    recogniser = PitchRecogniser()
    results = list(transcriber(recogniser, batch_size=3).transcribe_many(paths))
    assert [(path, t.text) for path, t in results] == [(p, f"p{200 + 100 * i}") for i, p in enumerate(paths)]
    assert [len(batch) for batch in recogniser.batches] == [3, 3]


def test_batches_hold_segments_of_like_length(transcriber, make_tone, make_silence):
    lengths = [1, 5, 1, 5, 1, 5, 1, 5]
    parts = [part for seconds in lengths for part in (make_tone(300, seconds), make_silence(2))]
    recogniser = PitchRecogniser()
    transcriber(recogniser, batch_size=4)(np.concatenate(parts), RATE)
    assert all(max(batch) - min(batch) < 0.5 for batch in recogniser.batches)


def test_long_segments_make_smaller_batches(transcriber, make_tone, make_silence, monkeypatch):
    monkeypatch.setattr("asr.transcriber.USUAL", 5.0)
    parts = [part for seconds in (8.5, 8.5, 8.5, 1, 1, 1, 1) for part in (make_tone(300, seconds), make_silence(2))]
    whole = transcriber(batch_size=4)
    whole(np.concatenate(parts), RATE)
    assert [len(batch) for batch in whole.recogniser.batches] == [2, 4, 1]
    one = transcriber(batch_size=1)  # a segment longer than a batch should be is a batch
    one(np.concatenate(parts), RATE)
    assert [len(batch) for batch in one.recogniser.batches] == [1] * 7


def test_results_come_as_soon_as_they_are_done(transcriber, melody, tmp_path):
    paths = [write(tmp_path / f"{i}.wav", melody([300])) for i in range(2 * POOL_BATCHES)]
    read = []

    def sources():
        for path in paths:
            read.append(path)
            yield path

    next(transcriber(batch_size=1).transcribe_many(sources()))
    assert len(read) < len(paths)


def test_bad_files_do_not_stop_the_others(transcriber, melody, tmp_path):
    good = [write(tmp_path / f"{i}.wav", melody([300 + 100 * i])) for i in range(2)]
    cut = write(tmp_path / "cut.flac", melody([300] * 20))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    errors = []
    sources = [good[0], cut, tmp_path / "missing.wav", good[1]]
    strict = transcriber(strict=True)
    results = strict.transcribe_many(sources, on_error=lambda source, error: errors.append(source))
    assert [t.text for _, t in results] == ["p300", "p400"]
    assert errors == [cut, tmp_path / "missing.wav"]
    with pytest.raises(AudioError, match="truncated"):
        list(strict.transcribe_many(sources))


def test_what_is_left_of_a_damaged_recording_is_transcribed(transcriber, melody, tmp_path):
    """Tones at 0.5, 3.5, 6.5 ... s; some are gone, and the others keep their times."""
    path = write(tmp_path / "a.flac", melody([300, 400, 500, 600, 700, 800]))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(2000) + data[len(data) // 2 + 2000 :])
    with pytest.warns(UserWarning, match="a.flac: damaged or truncated: missing"):
        transcript = transcriber()(path)
    (gap,) = transcript.missing
    assert transcript.as_dict()["missing"] == [{"start": round(gap.start, 3), "end": round(gap.end, 3)}]
    assert transcript.duration == pytest.approx(18.5, abs=0.01)
    whole = [(segment.text, segment.words[0].start) for segment in transcript.segments if segment.text != "p500"]
    assert len(whole) >= 4 and {"p300", "p800"} <= {text for text, _ in whole}
    for text, start in whole:
        assert start == pytest.approx(0.5 + 3 * (int(text[1:]) // 100 - 3), abs=0.3) or start >= gap.start


def test_lists_and_dicts_as_in_transformers(transcriber, melody, tmp_path):
    paths = [write(tmp_path / f"{i}.wav", melody([300 + 100 * i])) for i in range(2)]
    assert [t.text for t in transcriber()([str(path) for path in paths])] == ["p300", "p400"]
    assert [t.text for t in transcriber()(paths)] == ["p300", "p400"]
    assert transcriber()([]) == []
    sample = {"array": melody([500]), "sampling_rate": RATE}
    assert transcriber()(sample).text == "p500"
    assert [t.text for t in transcriber()([sample, {"raw": melody([600]), "sampling_rate": RATE}])] == ["p500", "p600"]
    with pytest.raises(AudioError, match="expected .array."):
        transcriber()({"path": "a.wav"})


def test_a_channel_or_a_track_can_be_chosen(transcriber, melody):
    stereo = np.stack([melody([300]), melody([500])])
    assert transcriber(channel=2)(stereo, RATE).text == "p500"
    with pytest.raises(AudioError, match="no channel 3"):
        transcriber(channel=3)(stereo, RATE)


@pytest.mark.parametrize("decibels", [-50, -60, -70])
def test_quiet_sound_is_heard(decibels):
    """The detector of these tests takes what is over -40 dB for speech, and the recogniser too."""
    quiet = np.concatenate([np.zeros(RATE), np.sin(2 * np.pi * 300 * np.arange(2 * RATE) / RATE), np.zeros(RATE)])
    noise = 1e-5 * np.random.default_rng(0).standard_normal(len(quiet))
    detector = lambda: lambda frames: (np.sqrt(np.mean(frames**2, axis=1)) > 0.009).astype(float)  # noqa: E731
    heard = Transcriber(PitchRecogniser(), segmenter=Segmenter(detector=detector))
    transcript = heard(np.float32(quiet * 10 ** (decibels / 20) + noise), RATE)
    assert "p300" in transcript.text


def test_silence_gives_an_empty_transcript(transcriber, make_silence):
    recogniser = PitchRecogniser()
    transcript = transcriber(recogniser)(make_silence(5), RATE)
    assert transcript.text == "" and transcript.segments == [] and transcript.duration == 5
    assert recogniser.batches == []


def test_segments_without_words_are_left_out(transcriber, melody):
    class Deaf(PitchRecogniser):
        def transcribe_batch(self, waves, options):
            return [Utterance("") for _ in waves]

    assert transcriber(Deaf())(melody([300]), RATE).segments == []


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_any_rate_in_any_rate_out(transcriber, rate):
    """The recording's rate and the recogniser's need not be that of the segmenter."""
    time = np.arange(3 * rate) / rate
    stereo = np.stack([0.3 * np.sin(2 * np.pi * 400 * time)] * 2)
    assert transcriber(PitchRecogniser(sampling_rate=8_000))(stereo, rate).text == "p400"


def test_bytes_and_arrays(transcriber, melody, tmp_path):
    wave = melody([300])
    assert transcriber()(write(tmp_path / "a.wav", wave).read_bytes()).text == "p300"
    assert transcriber()((wave * 32_000).astype(np.int16), RATE).text == "p300"
    with pytest.raises(AudioError, match="sampling_rate"):
        transcriber()(wave)
    with pytest.raises(AudioError, match="NaN"):
        transcriber()(np.full(RATE, np.nan), RATE)
    with pytest.raises(AudioError, match="a file says its own"):
        transcriber()(tmp_path / "a.wav", RATE)


def test_enhancer_and_corrector_have_their_place(transcriber, melody):
    seen = []

    def higher(wave, rate):
        time = np.arange(len(wave)) / rate
        return (wave * np.sin(2 * np.pi * 100 * time)).astype(np.float32)  # 400 Hz becomes 300 and 500

    def correct(nbest):
        seen.append(nbest)
        return "what was said"

    transcript = transcriber(enhancer=higher, corrector=correct)(melody([400]), RATE)
    assert seen in ([["p300", "other"]], [["p500", "other"]])
    assert transcript.text == "what was said"
    assert [word.text for word in transcript.words] == ["what", "was", "said"]
    assert transcript.words[0].start == pytest.approx(0.5, abs=0.05)
    assert transcript.words[-1].end == pytest.approx(1.5, abs=0.05)


def test_writer_sees_a_recording_as_a_whole(transcriber, melody):
    seen = []

    def write(texts):
        seen.append(texts)
        return [f"{text.upper()}." for text in texts]

    transcript = transcriber(writer=write)(melody([300, 400]), RATE)
    assert seen == [["p300", "p400"]] and transcript.text == "P300. P400."
    plain = transcriber()(melody([300, 400]), RATE)
    assert [(w.start, w.end, w.confidence) for w in transcript.words] == [
        (w.start, w.end, w.confidence) for w in plain.words
    ]
    assert transcriber(writer=write)(np.zeros(RATE, np.float32), RATE).text == "" and len(seen) == 1


def test_word_timestamps_are_optional(transcriber, melody):
    transcript = transcriber(options=DecodeOptions(word_timestamps=False))(melody([300]), RATE)
    assert transcript.text == "p300" and transcript.words == []


def test_progress_adds_up_to_the_audio_read(transcriber, melody, tmp_path):
    paths = [write(tmp_path / f"{i}.wav", melody([300])) for i in range(3)]
    steps = []
    results = list(transcriber().transcribe_many(paths, progress=steps.append))
    assert sum(steps) == pytest.approx(sum(t.duration for _, t in results))


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size"):
        Transcriber(PitchRecogniser(), batch_size=0)


def test_importing_asr_loads_no_torch():
    code = (
        "import sys, asr, asr.audio, asr.transcribe, asr.score; "
        "assert not {'torch', 'transformers', 'librosa'} & set(sys.modules); "
        "assert {'Transcriber', 'Transcript'} <= set(asr.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_resolve():
    import asr
    import asr.audio

    for module in (asr, asr.audio):
        for name in module.__all__:
            assert getattr(module, name)
        with pytest.raises(AttributeError, match="nonsense"):
            module.nonsense  # noqa: B018


def test_a_torchaudio_that_does_not_fit_is_named_with_its_remedy(monkeypatch):
    from asr.compat import check_torchaudio

    check_torchaudio()
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    with pytest.raises(ImportError, match=r"torch .* and torchaudio .* do not fit .*pip install") as error:
        check_torchaudio()
    assert "\n" not in str(error.value)


class Boundless(PitchRecogniser):
    """Says words that sound on after the wave, into each other, and for no time at all."""

    def transcribe_batch(self, waves, options):
        times = ((0.0, 0.3), (0.2, 0.2), (0.9, 9.0))
        words = [Word(str(i), start, end, 0.5) for i, (start, end) in enumerate(times)]
        return [Utterance("0 1 2", words) for _ in waves]


def test_words_end_before_the_sound_and_the_next_word(transcriber, melody):
    transcript = transcriber(Boundless())(melody([300, 400]), RATE)
    assert len(transcript.segments) == 2
    for segment in transcript.segments:
        edges = [time for word in segment.words for time in (word.start, word.end)]
        assert edges == sorted(edges) and segment.start <= edges[0] and edges[-1] <= segment.end
        assert all(word.end > word.start for word in segment.words)


def test_a_used_transcriber_goes_to_another_process(tmp_path):
    """With the shipped model, whose language model keeps a cache once it was used."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    from pathlib import Path

    import asr

    sample = str(Path(asr.__file__).with_name("sample.flac"))
    used = Transcriber.from_pretrained(None, "cpu")
    expected = used(sample)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(used, sample).result(300) == expected
        there = pool.submit(_compute_type, used).result(300)
    assert there == used.recogniser.compute_type != "auto"


def _compute_type(transcriber) -> str:
    return transcriber.recogniser.compute_type


def test_memory_that_is_free_goes_back_to_the_system():
    from pathlib import Path

    from asr.memory import give_back

    status = Path("/proc/self/statm")
    if not status.exists() or "glibc" not in platform.libc_ver():
        give_back()  # does nothing
        return
    kept = [bytearray(b"x" * 100_000) for _ in range(600)]  # too small to be blocks of their own
    last = bytearray(b"x" * 100_000)  # what is behind it is not at the end of the heap
    full = int(status.read_text().split()[1])
    del kept
    give_back()
    assert (full - int(status.read_text().split()[1])) * resource.getpagesize() > 40e6 and last
