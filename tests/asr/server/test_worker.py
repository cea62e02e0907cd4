"""The queue with a recogniser that names what it hears."""

import asyncio
import threading

import numpy as np
import pytest
import soundfile

from asr.audio.segment import SpeechSegment
from asr.recogniser import DecodeOptions
from asr.server.errors import TooLong
from asr.server.worker import Worker
from tests.asr.server.conftest import Namer, busy

RATE = 16_000


@pytest.fixture
def namer():
    return Namer()


@pytest.fixture
def worker(namer):
    worker = Worker(namer)
    yield worker
    worker.close()


@pytest.fixture
def recording(tmp_path, make_tone, make_silence):
    """recording(200, 300 ...) -> file of tones of half a second with pauses."""

    def write(*pitches):
        path = tmp_path / ("-".join(map(str, pitches[:3])) + f"-{len(pitches)}.wav")
        wave = np.concatenate([np.concatenate([make_tone(p, 0.512), make_silence(0.512)]) for p in pitches])
        soundfile.write(path, wave, RATE)
        return path

    return write


async def texts(worker, path, max_seconds=1e6):
    async with worker.transcribe(path, "its name", max_seconds) as job:
        return [segment.text async for segment in job]


async def until(condition):
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.025)
    pytest.fail("it did not come to that")


def test_each_recording_gets_its_own_segments_in_order(worker, recording, namer):
    wanted = [[200, 300, 400], [500], [600, 200] * 5, [300, 300], []]
    paths = [recording(*pitches) if pitches else recording(0) for pitches in wanted]

    async def all_at_once():
        return await asyncio.gather(*(texts(worker, path) for path in paths))

    assert asyncio.run(all_at_once()) == [[str(p) for p in pitches] for pitches in wanted]
    assert max(map(len, namer.batches)) > 1


def test_speech_up_to_the_end_is_never_lost(worker, tmp_path, make_tone):
    path = tmp_path / "tone.wav"
    soundfile.write(path, make_tone(300, 1), RATE)

    async def again_and_again():
        return [await texts(worker, path) for _ in range(30)]

    assert asyncio.run(again_and_again()) == [["300"]] * 30


def test_a_long_recording_keeps_no_short_one_waiting(worker, recording, namer):
    async def race():
        with busy(worker):
            long = asyncio.create_task(texts(worker, recording(*[200] * 60)))
            await until(lambda: len(worker._jobs) == 1)
            short = asyncio.create_task(texts(worker, recording(300)))
            await until(lambda: len(worker._jobs) == 2)
        return await short, await long

    short, long = asyncio.run(race())
    assert short == ["300"] and len(long) == 60
    assert "300" in namer.batches[0] + namer.batches[1]


def test_decoding_waits_for_the_model(worker, recording):
    async def look():
        with busy(worker):
            async with worker.transcribe(recording(*[200] * 90), "long", 1e6) as job:
                await until(lambda: job.is_parked)
                seen = len(job.waiting), job.duration
        async with worker.transcribe(recording(*[200] * 90), "long", 1e6) as job:
            return *seen, len([segment async for segment in job]), job.duration

    waiting, read, segments, duration = asyncio.run(look())
    assert 16 <= waiting < 24 and read < 60 and segments == 90 and duration == pytest.approx(92.16)


def test_one_that_fails_does_not_spoil_the_batch(worker, recording, namer):
    async def all_three():
        with busy(worker):
            tasks = [asyncio.create_task(texts(worker, recording(pitch))) for pitch in (200, 900, 300)]
            await until(lambda: len(worker._jobs) == 3)
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, failed, last = asyncio.run(all_three())
    assert sorted(namer.batches[0]) == ["200", "300", "900"]
    assert first == ["200"] and last == ["300"] and str(failed) == "too high"
    assert asyncio.run(texts(worker, recording(400))) == ["400"]


def test_errors_name_the_recording(worker, recording, tmp_path):
    (tmp_path / "broken").write_bytes(b"no audio")
    with pytest.raises(ValueError, match="^its name: "):
        asyncio.run(texts(worker, tmp_path / "broken"))
    with pytest.raises(TooLong):
        asyncio.run(texts(worker, recording(*[200] * 20), max_seconds=10))


def test_leaving_early_stops_the_work(worker, recording, namer):
    async def leave():
        with busy(worker):
            async with worker.transcribe(recording(*[200] * 90), "long", 1e6) as job:
                await until(lambda: job.is_parked)
        await until(lambda: job._blocks.gi_frame is None)  # the file is closed
        return job

    job = asyncio.run(leave())
    assert job.duration < 60 and not worker._jobs
    assert asyncio.run(texts(worker, recording(300))) == ["300"] and namer.batches == [["300"]]


def test_live_segments_go_first(worker, recording, namer, make_tone):
    async def ask():
        with busy(worker):
            task = asyncio.create_task(texts(worker, recording(*[200] * 20)))
            await until(lambda: len(worker._jobs) == 1)
            segment = SpeechSegment(7.0, make_tone(500, 0.5))
            answer = asyncio.get_running_loop().run_in_executor(None, worker.recognise, [segment])
            await until(lambda: worker._urgent)
        return (await answer)[0], await task

    live, rest = asyncio.run(ask())
    assert live.text == "500" and live.start == 7.0 and rest == ["200"] * 20
    assert namer.batches[0][0] == "500" and len(namer.batches[0]) > 1


def test_calls_run_in_the_thread_of_the_model(worker):
    assert worker.call(lambda: threading.current_thread().name).result(10) == "model"
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0).result(10)


def test_closing_ends_what_waits(worker):
    with busy(worker):
        segment, outcome = SpeechSegment(0.0, np.ones(RATE, np.float32)), []

        def ask():
            try:
                outcome.append(worker.recognise([segment]))
            except RuntimeError as error:
                outcome.append(str(error))

        asking, closing = threading.Thread(target=ask), threading.Thread(target=worker.close)
        asking.start()
        asyncio.run(until(lambda: worker._urgent))
        closing.start()
        asyncio.run(until(lambda: worker._is_closing))
    for thread in (asking, closing):
        thread.join(60)
    assert outcome == ["the server stops"] and not worker.is_alive


def test_a_batch_has_one_way_to_decode(worker, namer, recording):
    german = DecodeOptions(language="de")

    async def ask(path, options):
        async with worker.transcribe(path, "its name", 1e6, options) as job:
            return [segment.text async for segment in job]

    async def all_at_once():
        with busy(worker):
            asked = [asyncio.create_task(ask(recording(p), o)) for p, o in ((200, None), (300, german), (400, None))]
            await until(lambda: len(worker._jobs) == 3)
        return await asyncio.gather(*asked)

    assert asyncio.run(all_at_once()) == [["200"], ["300"], ["400"]]
    assert sorted(zip(map(sorted, namer.batches), namer.asked, strict=True), key=str) == [
        (["200", "400"], None), (["300"], german)
    ]  # fmt: skip
