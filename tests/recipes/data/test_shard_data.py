"""Shards in object storage: every utterance once, no two processes the same, read once, wherever they lie."""

import json
import tarfile

import numpy as np
import pytest

pytest.importorskip("pyarrow")
from recipes.corpus.__main__ import main  # noqa: E402
from recipes.data.shard_data import ShardBatches, ShardData  # noqa: E402


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Folder with a table of 30 tones of different lengths, one of them broken, and 8 shards of it."""
    from asr.audio import save

    root = tmp_path_factory.mktemp("shards")
    lines = ["id\tpath\tspeaker\ttext\tseconds"]
    for number in range(30):
        seconds = 0.3 + 0.05 * number
        wave = 0.3 * np.sin(2 * np.pi * (200 + 20 * number) * np.arange(round(seconds * 16000)) / 16000)
        save(root / f"{number}.wav", wave.astype(np.float32))
        lines.append(f"utt.{number}\t{number}.wav\tanna\ttext {number}\t{seconds:.2f}")
    (root / "7.wav").write_bytes(b"broken")
    (root / "table.tsv").write_text("\n".join(lines) + "\n")
    assert main(["pack", str(root / "table.tsv"), str(root / "shards"), "part_seconds=4"]) == 1
    return root


def batches(packed, folder=None, **options):
    data = ShardData(
        folder or str(packed / "shards"), str(packed / "table.tsv"), batch_seconds=3.0, window=2, **options
    )
    return ShardBatches(data, seed=3)


def test_shards_are_webdataset_and_hold_what_was_said(packed):
    import io

    import soundfile

    shards = sorted((packed / "shards").glob("shard-*.tar"))
    assert len(shards) == len(list((packed / "shards").glob("part-*.parquet"))) > 5
    seen = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            assert names == [f"{i:06d}.{kind}" for i in range(len(names) // 2) for kind in ("flac", "json")]
            for name in names[::2]:
                wave, rate = soundfile.read(io.BytesIO(tar.extractfile(name).read()))
                said = json.load(tar.extractfile(name.replace("flac", "json")))
                seen[said["id"]] = (said, len(wave), rate)
    assert set(seen) == {f"utt.{i}" for i in range(30) if i != 7}
    assert seen["utt.4"] == ({"id": "utt.4", "text": "text 4", "speaker": "anna"}, 8000, 16000)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch_without_overlap(packed, world):
    data = batches(packed, shortest=0.1)
    plans = [data.plan(epoch=1, rank=rank, world=world) for rank in range(world)]
    assert len({len(plan) for plan in plans}) == 1
    items = [item for plan in plans for batch in plan for item in batch.items]
    assert len(items) == len(set(items))
    if world == 1:
        assert len(items) == 29
    shards = [{shard for batch in plan for shard, _ in batch.items} for plan in plans]
    assert sum(map(len, shards)) == len(set.union(*shards))


def test_epochs_differ_and_repeat(packed):
    data, again = batches(packed), batches(packed)
    assert data.plan(0, 0, 2) == again.plan(0, 0, 2) != data.plan(1, 0, 2)


def test_batches_hold_their_recordings_in_their_limits(packed):
    data = batches(packed, shortest=0.5, longest=1.5)
    heard = []
    for plan in data.plan(0, 0, 1):
        waves, texts = data.read(plan)
        assert max(map(len, waves)) * len(waves) / 16000 <= 3.0 + 1e-6
        heard += [(text, len(wave)) for wave, text in zip(waves, texts, strict=True)]
    lengths = {f"text {i}": round((0.3 + 0.05 * i) * 16000) for i in range(30) if i != 7}
    assert dict(heard) == {text: n for text, n in lengths.items() if 8000 <= n <= 24000}


def test_each_shard_is_fetched_once_and_in_time(packed, serve_folder):
    address, requests = serve_folder(packed / "shards")
    data = batches(packed)
    data.reader.places = [(type(folder)(address), name) for folder, name in data.reader.places]
    plans = data.plan(0, 0, 1)
    data.read(plans[0])
    assert set(data.reader._held) == set(plans[0].wanted) and len(plans[0].wanted) == 4  # this window and the next
    for plan in plans[1:]:
        data.read(plan)
    fetched = [path for path in requests if path.endswith(".tar")]
    assert len(fetched) == len(set(fetched)) == len(data.index.places)


@pytest.fixture
def serve_folder():
    """serve_folder(folder) -> its http address and the list of paths that are asked for."""
    pytest.importorskip("aiohttp")
    import functools
    import http.server
    import threading

    requests, servers = [], []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    def serve(folder):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}", requests

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_held_out_recordings_come_from_a_table(packed):
    (packed / "good.tsv").write_text("\n".join((packed / "table.tsv").read_text().splitlines()[:5]) + "\n")
    data = ShardData(str(packed / "shards"), str(packed / "good.tsv"), validation_utterances=3)
    found = list(ShardBatches(data, 0).held_out(2))
    assert [len(waves) for waves, _ in found] == [2, 1] and found[0][1][0] == "text 0"


def test_too_few_shards_and_no_shards_are_said(packed, tmp_path):
    with pytest.raises(ValueError, match="cannot be shared by 50 processes"):
        batches(packed).plan(0, 0, 50)
    with pytest.raises(ValueError, match="holds no shards"):
        batches(packed, str(tmp_path))
