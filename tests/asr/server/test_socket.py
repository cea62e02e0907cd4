"""Live text over the WebSocket, by the websockets client."""

import json

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from asr.live.stream import LiveTranscriber
from tests.asr.server.conftest import KEY


@pytest.fixture
def open_socket(toy_server):
    def opened(query="", key=KEY, server=toy_server):
        url = f"ws://127.0.0.1:{server.port}/v1/audio/live{query}"
        return connect(url, additional_headers={"Authorization": f"Bearer {key}"} if key else {})

    return opened


def pcm(wave: np.ndarray) -> bytes:
    return np.clip(np.round(wave * 32768), -32768, 32767).astype("<i2").tobytes()


def conversation(socket, data: bytes, piece: int) -> list[dict]:
    """All that is said about a stream."""
    for at in range(0, len(data), piece):
        socket.send(data[at : at + piece])
    socket.send(json.dumps({"type": "end"}))
    return [json.loads(message) for message in socket]


def test_text_settles_and_is_that_of_the_live_transcriber(open_socket, server, speech, transcriber):
    with open_socket(server=server) as socket:
        *events, done = conversation(socket, pcm(speech), 9_999)  # odd pieces
    assert done == {"type": "done", "duration": pytest.approx(len(speech) / 16_000, abs=0.01)}
    finals = [event for event in events if event["type"] == "final"]
    live = LiveTranscriber(transcriber.recognise)
    state = live.start()
    own = live.push(state, speech) + live.finish(state)
    assert [event["text"] for event in finals] == [event.segment.text for event in own if event.kind == "final"]


def test_events(open_socket, make_tone, make_silence):
    wave = np.concatenate([make_tone(300, 2), make_silence(1), make_tone(500, 0.5), make_silence(0.5)])
    with open_socket() as socket:
        *events, done = conversation(socket, pcm(wave), 3_200)
    finals = [event for event in events if event["type"] == "final"]
    assert [event["text"] for event in finals] == ["300", "500"]
    assert finals[1]["words"][0] == {"word": "500", "start": finals[1]["start"], "end": finals[1]["end"]}
    assert finals[1]["start"] == pytest.approx(3, abs=0.05) and finals[1]["heard"] <= done["duration"] == 4
    assert all(event["type"] in ("partial", "final") for event in events)
    assert all(event["settled"] in ("", "300", "500") for event in events if event["type"] == "partial")


def test_other_rates_and_channels(open_socket, make_tone):
    stereo = np.repeat(np.repeat(make_tone(400, 2), 2)[:, None], 2, axis=1)
    with open_socket("?sample_rate=32000&channels=2") as socket:
        *events, done = conversation(socket, pcm(stereo), 10_001)
    assert done["duration"] == pytest.approx(2, abs=0.01) and events[-1]["text"] == "400"


@pytest.mark.parametrize("query", ["?sample_rate=1", "?sample_rate=high", "?channels=0", "?channels=99999999999"])
def test_impossible_streams(open_socket, query):
    with open_socket(query) as socket:
        error = json.loads(socket.recv())
        assert error["type"] == "error" and error["code"] == "invalid_audio"
        with pytest.raises(ConnectionClosed):
            socket.recv()


def test_message_that_means_nothing(open_socket):
    with open_socket() as socket:
        socket.send("[1]")
        assert "binary" in json.loads(socket.recv())["message"]


@pytest.mark.parametrize(("frame", "code"), [
    (b"\x81\x82\0\0\0\0\xff\xfe", 1007), (b"\x83\x81\0\0\0\0x", 1002), (b"\xf2\x81\0\0\0\0x", 1002),
    (b"\x82\x02ab", 1002), (b"\x80\x82\0\0\0\0xx", 1002), (b"\x82\xff\x40" + bytes(11), 1009),
])  # fmt: skip
def test_frames_that_are_none(open_socket, frame, code):
    """Not UTF-8, reserved kind, reserved bits, not masked, going on with nothing, 2^62 bytes."""
    with open_socket() as socket:
        socket.socket.sendall(frame)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
        assert closed.value.rcvd.code == code


def test_one_stream_too_many_and_one_that_breaks_off(open_socket):
    with open_socket() as first:
        first.send(pcm(np.zeros(16_000)))
        with open_socket() as second:
            assert json.loads(second.recv())["code"] == "server_busy"
        first.socket.close()
    for _ in range(50):  # the place is free again
        with open_socket() as third:
            third.send('{"type": "end"}')
            if json.loads(third.recv())["type"] == "done":
                return
    pytest.fail("a stream that broke off keeps its place")


def test_key(open_socket):
    with pytest.raises(InvalidStatus):
        open_socket(key=None)
    with open_socket(f"?api_key={KEY.replace(' ', '%20')}", key=None) as socket:
        socket.send('{"type": "end"}')
        assert json.loads(socket.recv()) == {"type": "done", "duration": 0.0}
