"""Bad, huge, slow and abandoned requests: each gets its answer and harms nothing."""

import contextlib
import gzip
import json
import signal
import socket
import subprocess
import sys
import time
import zipfile
from io import BytesIO

import httpx
import numpy as np
import pytest

from asr.loading import load_recogniser
from asr.recogniser import DecodeOptions
from asr.server import canvas_view
from asr.server.errors import ApiError
from asr.server.folder import temporary_folder
from tests.asr.server.conftest import KEY, busy, encoded

AUTH = {"Authorization": f"Bearer {KEY}"}
FIELDS = {"model": "toy"}
HTTP = httpx.Client(timeout=60, verify=False)  # one for all: reading certificates takes longer than a request


@pytest.fixture
def post(toy_server):
    def send(path="/v1/audio/transcriptions", **request):
        headers = AUTH | request.pop("headers", {})
        return HTTP.post(toy_server.url + path, headers=headers, timeout=60, **request)

    return send


@pytest.fixture(autouse=True)
def unharmed(toy_server):
    """After each test the server works on nothing, keeps nothing and still answers."""
    yield
    for _ in range(100):
        text = HTTP.get(f"{toy_server.url}/metrics", headers=AUTH).text
        if "asr_requests_inside 0.0" in text and not toy_server.files:
            return
        time.sleep(0.2)
    pytest.fail(f"left behind: {toy_server.files}")


def zipped() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("talk.wav", bytes(50_000_000))
    return file.getvalue()


GOOD = encoded(np.full(8_000, 0.1, np.float32))
BAD_FILES = {
    "empty": b"", "text": b"this is no audio", "zip": zipped(), "cut": GOOD[:3_000], "head only": GOOD[:20],
    "playlist": b"#EXTM3U\nfile:///etc/passwd\n", "concat": b"ffconcat version 1.0\nfile recording\n",
    "random": np.random.default_rng(0).bytes(10_000),
    "nan": encoded(np.full(8_000, np.nan, np.float32), subtype="FLOAT"),
    "no samples": encoded(np.zeros(0, np.float32)), "html": b"<!doctype html><audio src=x>",
    "rate": GOOD[:24] + (100).to_bytes(4, "little") + GOOD[28:], "gzip": gzip.compress(bytes(5_000_000)),
    "channels": GOOD[:22] + b"\xff\xff" + GOOD[24:], "box": (1).to_bytes(4) + b"moov" + (1 << 60).to_bytes(8),
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1/metrics\n#EXT-X-ENDLIST\n",
}  # fmt: skip


TRANSCRIPTIONS, ENHANCEMENTS = "/v1/audio/transcriptions", "/v1/audio/enhancements"


def test_what_the_model_can_be_told_reaches_it_and_the_rest_is_named(post, toy_server):
    asked = toy_server.services.transcriber.asked
    file = {"file": ("talk.wav", GOOD)}
    answer = post(files=file, data={"language": "de", "prompt": "Names", "temperature": "0.5"})
    assert answer.status_code == 200 and answer.headers["x-ignored"] == "temperature"
    assert asked[-1] == DecodeOptions(language="de", initial_prompt="Names")
    assert post(files=file).status_code == 200 and asked[-1] is None
    for path, data in ((TRANSCRIPTIONS, {"language": "xx"}), ("/v1/audio/translations", {})):
        answer = post(path, files=file, data=data)
        assert answer.status_code == 400 and answer.json()["error"]["code"].startswith("unsupported_")


def test_damaged_recordings_are_transcribed_as_far_as_they_go(post):
    file = {"file": ("talk.wav", BAD_FILES["cut"])}
    answer = post(files=file)
    assert answer.status_code == 200 and "damaged or truncated: missing" in answer.json()["warnings"][0]
    assert "missing" in post(files=file, data={"response_format": "srt"}).headers["x-warning"]
    assert "missing" in post(files=file, data={"response_format": "verbose_json"}).json()["warnings"][0]
    assert "damaged" in post(files=file, data={"stream": "true"}).text


REFUSED = [(TRANSCRIPTIONS, kind) for kind in BAD_FILES if kind != "cut"]
REFUSED += [(ENHANCEMENTS, kind) for kind in BAD_FILES]


@pytest.mark.parametrize(("path", "kind"), REFUSED)
def test_files_that_are_no_recordings(post, kind, path):
    answer = post(path, files={"file": ("talk.wav", BAD_FILES[kind])})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "file" and error["type"] == "invalid_request_error"
    assert error["message"].startswith("talk.wav: ") and "dspeech-serve" not in error["message"]


@pytest.mark.parametrize("name", ["../../../etc/passwd", "C:\\x\\a.wav", "a\x00b\n.wav", "x" * 300, ".", "a/.."])
def test_names_of_files_are_only_names(post, name):
    answer = post(files={"file": (name, b"no audio")})
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400 and "/" not in message.split(": ")[0] and len(message) < 250
    assert message.isprintable()


BAD_FIELDS = [
    {"response_format": "docx"}, {"temperature": "hot"}, {"temperature": "7"}, {"stream": "perhaps"},
    {"timestamp_granularities[]": "letter"}, {"model": "no/such/model"}, {"model": "../../etc"},
    {"temperature": "nan"}, {"language": "x" * 10_000}, {"response_format": "srt", "stream": "true"},
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=str)
def test_fields(post, fields):
    answer = post(files={"file": ("a.wav", GOOD)}, data=FIELDS | fields)
    name = next(iter(fields)).removesuffix("[]")
    assert answer.status_code in (400, 404) and answer.json()["error"]["param"] == name


def test_requests_that_are_no_forms(post, toy_server):
    assert post(content=GOOD).status_code == 400
    assert post(json={"file": "a.wav"}).status_code == 400
    assert post(data=FIELDS).status_code == 400  # urlencoded
    assert post(files={"other": ("a.wav", GOOD)}).json()["error"]["code"] == "missing_file"
    assert post(files=[("file", ("a.wav", GOOD))] * 2).status_code == 400
    assert post(files={"file": ("a.wav", GOOD)}, data={f"f{i}": "x" for i in range(100)}).status_code == 400
    assert post(files={"file": ("a.wav", GOOD)}, data={"prompt": "x" * 100_000}).status_code == 400
    multipart = {"Content-Type": "multipart/form-data"}
    assert post(content=b"--x\r\n", headers=multipart).status_code == 400  # no boundary
    assert post(content=b"garbage" * 99, headers={"Content-Type": "multipart/form-data; boundary=x"}).status_code == 400
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    cut = post(content=head + GOOD, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert cut.status_code == 400 and "no whole 'file'" in cut.json()["error"]["message"]
    assert post(files={"file": ("a.wav", GOOD)}, headers={"Content-Encoding": "gzip"}).status_code == 415
    for method, path, status in (("GET", "/v1/audio/transcriptions", 405), ("GET", "/v1/../../etc/passwd", 404),
                                 ("POST", "/v1/nothing", 404)):
        answer = HTTP.request(method, toy_server.url + path, headers=AUTH)
        assert answer.status_code == status and answer.json()["error"]["message"]


def test_upload_too_large(post):
    def chunks():  # without a length
        for _ in range(40):
            yield bytes(200_000)

    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    for request in ({"files": {"file": ("a.wav", bytes(5_000_000))}},
                    {"content": (part for part in (head, *chunks())),
                     "headers": {"Content-Type": "multipart/form-data; boundary=x"}}):
        answer = post(**request)
        assert answer.status_code == 413 and "larger than 3 MB" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/enhancements"])
@pytest.mark.parametrize("minutes", [1.5, 10])  # found out by reading, and by the header
def test_recording_too_long_for_its_size(post, path, minutes):
    day = encoded(np.zeros(int(16_000 * 60 * minutes), np.float32), kind="FLAC")  # minutes in a few kB
    assert len(day) < 200_000
    answer = post(path, files={"file": ("day.flac", day)})
    assert answer.status_code == 413 and "longer than 1 minutes" in answer.json()["error"]["message"]


@contextlib.contextmanager
def half_a_request(toy_server, announced=100_000):
    """A connection whose upload stands still."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    lines = [b"POST /v1/audio/transcriptions HTTP/1.1", b"Host: x", b"Authorization: " + AUTH["Authorization"].encode(),
             b"Content-Type: multipart/form-data; boundary=x", b"Content-Length: %d" % announced, b"", b""]
    with socket.create_connection(("127.0.0.1", toy_server.port)) as connection:
        connection.sendall(b"\r\n".join(lines) + head + GOOD[:1_000])
        yield connection


FORM = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
LIVE = b"GET /v1/audio/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize("data", [
    FORM + b"Content-Length: abc\r\n\r\n", FORM + b"Content-Length: -1\r\n\r\n",
    FORM + b"Content-Length: 10\r\nContent-Length: 20\r\n\r\n", FORM + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"\x16\x03\x01\x00\xc8\x01\x00\x00" + bytes(190) + b"\r\n\r\n", b"GET /health HTTP/1.1\r\nX: " + b"a" * 1_000_000,
    LIVE + b"Sec-WebSocket-Key: dGhl\r\nSec-WebSocket-Version: 1\r\n\r\n",
])  # fmt: skip
def test_what_is_no_http(toy_server, data):
    with socket.create_connection(("127.0.0.1", toy_server.port), timeout=30) as connection:
        connection.sendall(data)
        answer = connection.recv(100)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401"))


def test_slow_upload(toy_server):
    with half_a_request(toy_server) as connection:
        connection.settimeout(30)
        answer = connection.recv(65536)
        while b"took more than" not in answer and (more := connection.recv(65536)):  # head and body may come apart
            answer += more
    assert answer.startswith(b"HTTP/1.1 408") and b"took more than 5 s" in answer


def test_too_many_at_once_are_told_when_to_come_again(toy_server, post):
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(half_a_request(toy_server))
        time.sleep(0.5)
        answer = post(files={"file": ("a.wav", GOOD)})
    assert answer.status_code == 429 and answer.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_client_that_gives_up(toy_server, make_tone):
    with busy(toy_server.services.worker):
        with pytest.raises(httpx.TimeoutException):
            HTTP.post(f"{toy_server.url}/v1/audio/transcriptions", headers=AUTH, timeout=httpx.Timeout(30, read=0.5),
                       files={"file": ("tone.wav", encoded(make_tone(300, 2)))})
        for _ in range(100):  # its place is free again although the model has not come to it
            text = HTTP.get(f"{toy_server.url}/metrics", headers=AUTH).text
            if "asr_requests_inside 0.0" in text:
                break
            time.sleep(0.05)
        assert "asr_requests_inside 0.0" in text and 'status="499"' in text and not toy_server.files


def test_killed_server_leaves_nothing_that_a_restart_does_not_clean(tmp_path):
    code = ("import sys, tempfile, time; from asr.server.folder import temporary_folder\n"
            "with temporary_folder(sys.argv[1]) as folder:\n"
            "    open(tempfile.mkdtemp() + '/recording', 'w').write('x'); print(folder, flush=True); time.sleep(60)")
    killed, alive = (subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
                     for _ in range(2))
    folders = [process.stdout.readline().strip() for process in (killed, alive)]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    with temporary_folder(tmp_path) as folder:
        assert {str(path) for path in tmp_path.iterdir()} == {folders[1], str(folder)}
    alive.kill()
    alive.communicate()


def test_port_that_is_taken_and_help(toy_server):
    command = [sys.executable, "-m", "asr.serve"]
    taken = subprocess.run([*command, "--port", str(toy_server.port)], capture_output=True, text=True)
    assert taken.returncode == 2 and f"cannot listen on 127.0.0.1 port {toy_server.port}" in taken.stderr
    code = "import json, sys, asr.serve as s; s.make_parser(); print(json.dumps('numpy' in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(loaded.stdout) is False


def test_a_model_without_denoiser_has_no_canvas(tiny_ctc_model):
    with pytest.raises(ApiError, match="has no denoising decoder") as refused:
        canvas_view.prepare(load_recogniser(tiny_ctc_model, "cpu"))
    assert refused.value.status == 400
