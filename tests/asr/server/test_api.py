"""The API by its official client, and enhancement by HTTP."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
import numpy as np
import openai
import pytest
import soundfile

from asr.loading import DEFAULT
from asr.output.writers import LineLimits, write_srt, write_vtt
from tests.asr.server.conftest import KEY, encoded

AUTH = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def recording(speech):
    return ("talk.wav", encoded(speech))


@pytest.fixture(scope="module")
def own(transcriber, recording):
    """What the recogniser itself makes of the recording."""
    return transcriber(recording[1])


def test_json_and_text(client, recording, own):
    assert own.text
    answer = client.audio.transcriptions.create(file=recording, model="whisper-1")
    assert answer.text == own.text and answer.usage.seconds == 5
    text = client.audio.transcriptions.create(file=recording, model=DEFAULT, response_format="text")
    assert text == own.text + "\n"


def test_subtitles(client, recording, own):
    for name, write in (("srt", write_srt), ("vtt", write_vtt)):
        answer = client.audio.transcriptions.create(file=recording, model=DEFAULT, response_format=name)
        assert answer == write(own, LineLimits())


def test_verbose_json(client, recording, own):
    ask = {"file": recording, "model": DEFAULT, "response_format": "verbose_json"}
    plain = client.audio.transcriptions.create(**ask)
    assert plain.text == own.text and plain.words is None and plain.duration == pytest.approx(own.duration, abs=0.01)
    assert [segment.text for segment in plain.segments] == [segment.text for segment in own.segments]
    assert plain.segments[0].avg_logprob < 0 and plain.segments[0].compression_ratio > 0
    words = client.audio.transcriptions.create(**ask, timestamp_granularities=["word"])
    assert words.segments is None
    for answered, word in zip(words.words, own.words, strict=True):
        assert answered.word == word.text and answered.start == pytest.approx(word.start, abs=0.002)
    both = client.audio.transcriptions.create(**ask, timestamp_granularities=["word", "segment"])
    assert both.words and both.segments


def test_stream(client, speech, transcriber):
    pause = np.zeros(24_000, np.float32)
    wave = np.concatenate([speech, pause, speech[:32_000]])
    own = transcriber(wave, 16_000)
    stream = client.audio.transcriptions.create(file=("two.wav", encoded(wave)), model=DEFAULT, stream=True)
    *deltas, done = stream
    assert len(deltas) == len(own.segments) == 2
    assert "".join(delta.delta for delta in deltas) == done.text == own.text
    assert [event.type for event in (deltas[0], done)] == ["transcript.text.delta", "transcript.text.done"]


def test_other_formats_and_silence(client, speech, own):
    flac = client.audio.transcriptions.create(file=("talk.flac", encoded(speech, kind="FLAC")), model=DEFAULT)
    assert flac.text == own.text
    stereo = encoded(np.stack([speech, speech], 1))
    assert client.audio.transcriptions.create(file=("stereo.wav", stereo), model=DEFAULT).text == own.text
    silence = ("silence.wav", encoded(np.zeros(16_000, np.float32)))
    assert client.audio.transcriptions.create(file=silence, model=DEFAULT).text == ""


def test_answers_at_the_same_time_are_not_mixed_up(client, speech, transcriber):
    waves = [speech[start : start + 30_000] for start in range(0, 36_000, 5_000)]
    expected = [transcriber(wave, 16_000).text for wave in waves]
    assert len(set(expected)) > 4

    def ask(number):
        return client.audio.transcriptions.create(file=(f"{number}.wav", encoded(waves[number])), model=DEFAULT).text

    with ThreadPoolExecutor(len(waves)) as threads:
        assert list(threads.map(ask, range(len(waves)))) == expected


def test_models(client):
    assert [model.id for model in client.models.list()] == [DEFAULT, "adaptcrn"]
    assert client.models.retrieve("adaptcrn").object == "model"
    with pytest.raises(openai.NotFoundError, match="'other' is not loaded; this server has"):
        client.models.retrieve("other")


def test_what_the_model_cannot_do(client, recording):
    with pytest.raises(openai.NotFoundError, match="'large-v3' is not loaded"):
        client.audio.transcriptions.create(file=recording, model="large-v3")
    with pytest.raises(openai.BadRequestError, match="does not translate"):
        client.audio.translations.create(file=recording, model="whisper-1")
    answer = client.audio.transcriptions.with_raw_response.create(
        file=recording, model=DEFAULT, prompt="names", temperature=0.5
    )
    assert answer.headers["x-ignored"] == "prompt, temperature"
    with pytest.raises(openai.BadRequestError, match="a stream has json or text"):
        client.audio.transcriptions.create(file=recording, model=DEFAULT, stream=True, response_format="srt")


def test_wrong_key(server, recording):
    other = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="wrong or missing API key"):
        other.audio.transcriptions.create(file=recording, model=DEFAULT)
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_enhancement_keeps_rate_channels_and_length(server, speech, kind):
    noise = np.random.default_rng(0).standard_normal((40_000, 2)) * 0.02
    noisy = (np.stack([speech[:40_000], 0.5 * speech[:40_000]], 1) + noise).astype(np.float32)
    answer = httpx.post(f"{server.url}/v1/audio/enhancements", headers=AUTH, timeout=120,
                        files={"file": ("noisy ü.wav", encoded(noisy, 22_050))}, data={"response_format": kind})
    assert answer.status_code == 200 and answer.headers["content-type"] == f"audio/{kind}"
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''noisy%20%C3%BC.{kind}"
    clean, rate = soundfile.read(BytesIO(answer.content))
    assert rate == 22_050 and clean.shape == noisy.shape
    assert 0 < np.abs(clean).mean() < np.abs(noisy).mean()
    assert server.files == []


def test_metrics(server, client, recording):
    def counted():
        text = httpx.get(f"{server.url}/metrics", headers=AUTH).text
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}

    name = 'asr_requests_total{path="/v1/audio/transcriptions",status="200"}'
    before = counted()
    client.audio.transcriptions.create(file=recording, model=DEFAULT)
    after = counted()
    assert after[name] == before.get(name, 0) + 1
    assert after["asr_audio_seconds_total"] - before["asr_audio_seconds_total"] == pytest.approx(4.2, abs=0.2)
    assert after["asr_requests_inside"] == 0 and after["asr_batch_segments_count"] > before["asr_batch_segments_count"]
