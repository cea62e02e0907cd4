import json

import numpy as np
import pytest
import soundfile

from asr.audio.augment import active_power, seeded
from enhance.mixing import Mixer, MixtureConfig, list_recordings, scaled
from recipes.data.pairs import PairStore
from recipes.mix import main, mixture_of

DRY = {"room_probability": 0.0, "clean_probability": 0.0, "speed_probability": 0.0}


@pytest.fixture
def corpus(hum, tmp_path):
    """Two recordings of "speech" and two of noise with a table, and a file that cannot be decoded."""
    rng, rows = np.random.default_rng(0), ["path\tsplit\tkind"]
    for split in ("train", "dev"):
        for number in range(2):
            for kind, wave in (
                ("clean", hum(40_000 + number)[0]),
                ("noise", 0.1 * rng.standard_normal(30_000)),
            ):
                path = tmp_path / split / kind / f"{kind}{number}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, wave, 16_000)
                rows.append(f"{path.relative_to(tmp_path)}\t{split}\t{kind}")
    (tmp_path / "train" / "noise" / "broken.wav").write_bytes(b"not audio")
    rows.append("train/noise/broken.wav\ttrain\tnoise")
    (tmp_path / "table.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def mixer(corpus, **settings) -> Mixer:
    lists = (list_recordings([corpus / "table.tsv"], kind) for kind in ("clean", "noise"))
    return Mixer(*lists, MixtureConfig(seconds=1.0, **settings))


def test_recordings_come_from_tables_and_folders(corpus):
    (corpus / "dev" / "noise" / "._noise0.wav").write_bytes(b"what macOS leaves beside it")
    table = list_recordings([corpus / "table.tsv"], "noise", "dev")
    assert table == list_recordings([corpus / "dev" / "noise"], "noise") and len(table) == 2
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_recordings([corpus / "nowhere"], "clean")
    with pytest.raises(ValueError, match="list of noise recordings is empty"):
        Mixer(table, [])


def test_pairs_repeat_with_the_seed_and_have_the_drawn_ratio(corpus):
    draw = mixer(corpus, snr_db=(3.0, 3.0), **DRY)
    noisy, clean = draw.pair(seeded(7, 1))
    again = draw.pair(seeded(7, 1))
    np.testing.assert_array_equal((noisy, clean), again)
    assert not np.array_equal(clean, draw.pair(seeded(7, 2))[1])
    assert noisy.shape == clean.shape == (16_000,) and noisy.dtype == np.float32
    assert 10 * np.log10(active_power(clean) / active_power(noisy - clean)) == pytest.approx(3, abs=0.05)


def test_the_target_keeps_early_reverberation_and_loses_the_rest(corpus, monkeypatch):
    response = np.zeros(8000, np.float32)
    response[[0, 800, 4000]] = 1.0, 0.5, 0.25  # direct, 50 ms, 250 ms
    monkeypatch.setattr("enhance.mixing.random_room_response", lambda rng: response)
    monkeypatch.setattr(
        "enhance.mixing.draw_recording", lambda files, rng: (None, np.eye(1, 20_000, 2000)[0])
    )
    monkeypatch.setattr("enhance.mixing.cut", lambda wave, length, rng: wave[:length])
    settings = {**DRY, "room_probability": 1.0, "clean_probability": 1.0}
    noisy, clean = mixer(corpus, **settings).pair(seeded(0))
    assert np.flatnonzero(np.abs(clean) > 1e-4 * clean.max()).tolist() == [2000, 2800]
    assert np.flatnonzero(np.abs(noisy) > 1e-4 * noisy.max()).tolist() == [2000, 2800, 6000]


def test_mild_pairs_are_dry_and_undamaged(corpus):
    """Rooms, clipping and band limits are for the others, which have their own range of ratios."""
    harsh = {"room_probability": 1.0, "clip_probability": 1.0, "band_limit_probability": 1.0, "snr_db": (-5.0, -5.0)}
    settings = {**DRY, **harsh, "mild_probability": 1.0, "mild_snr_db": (9.0, 9.0)}
    noisy, clean = mixer(corpus, **settings).pair(seeded(7, 1))
    assert 10 * np.log10(active_power(clean) / active_power(noisy - clean)) == pytest.approx(9, abs=0.05)


def test_damage_spares_the_target_or_treats_both_alike(corpus):
    pairs = {}
    for name in ("clip", "band_limit"):
        settings = {**DRY, "clean_probability": 1.0, f"{name}_probability": 1.0}
        pairs[name] = mixer(corpus, **settings).pair(seeded(7, 1))
    noisy, clean = pairs["clip"]
    limit = np.abs(noisy).max()
    assert limit < 0.9 * np.abs(clean).max() and (np.abs(noisy) > 0.999 * limit).sum() > 20
    np.testing.assert_array_equal(*pairs["band_limit"])


def test_measured_rooms_start_at_the_direct_path(corpus):
    response = np.zeros(2000, np.float32)
    response[[300, 900]] = 0.5, -0.2
    soundfile.write(corpus / "room.wav", response, 16_000)
    draw = mixer(corpus, measured_room_share=1.0)
    draw.rooms = list_recordings([corpus / "table.tsv"], "room") + [corpus / "room.wav"]
    measured = draw._room(seeded(0))
    assert measured[0] == 1 and measured[600] == pytest.approx(-0.4, abs=0.001)
    assert len(draw.rooms) == 1


def test_synthetic_noise_needs_no_recording(corpus):
    draw = mixer(corpus, synthetic_probability=1.0, **DRY)
    draw.noise = [corpus / "missing.wav"]
    noisy, clean = draw.pair(seeded(1))
    assert np.abs(noisy - clean).max() > 0


def test_scaling_respects_full_scale():
    loud = np.sin(np.arange(16_000) / 5).astype(np.float32) * 4
    noisy, clean = scaled(2 * loud, loud, level_db=0.0)
    assert np.abs(noisy).max() == pytest.approx(0.99, abs=1e-3)
    np.testing.assert_allclose(noisy, 2 * clean, rtol=1e-5)
    noisy, clean = scaled(loud, loud, level_db=-30.0)
    assert 10 * np.log10(active_power(clean)) == pytest.approx(-30, abs=0.01)


def test_fixed_training_set(corpus):
    out = corpus / "pairs"
    table = str(corpus / "table.tsv")
    arguments = ["train", str(out), "--speech", table, "--noise", table, "--hours", "0.002", "--seconds", "1"]
    assert main([*arguments, "--workers", "1", "--seed", "3"]) == 0
    store = PairStore(out)
    assert len(store) == 7 and json.loads((out / "pairs.json").read_text())["seed"] == 3
    noisy, clean = store.pair(4)
    np.testing.assert_allclose((noisy, clean), mixer(corpus).pair(seeded(3, 4)), atol=1e-4)


def test_mixtures_are_configuration(corpus):
    assert mixture_of("default", seconds=2.0) == MixtureConfig(seconds=2.0)
    assert mixture_of("broad").mild_probability == 0.5
    with pytest.raises(FileNotFoundError, match="no mixture called brod; there are broad, default"):
        mixture_of("brod")


def test_unfinished_sets_are_refused(tmp_path):
    np.save(tmp_path / "pairs.npy", np.zeros((1, 2, 10), np.int16))
    with pytest.raises(FileNotFoundError, match="recipes.mix train"):
        PairStore(tmp_path)


def test_development_mixture_is_repeatable(corpus):
    from recipes.evaluation.evaluate_enhance import find_clips

    table = str(corpus / "table.tsv")
    for name in ("one", "two"):
        main(["dev", str(corpus / name), "--speech", table, "--noise", table, "--snr", "-5", "10"])
    clips = find_clips(corpus / "one")
    assert sorted(clip.condition for clip in clips) == ["-5", "-5", "10", "10"]
    for clip in clips:
        noisy, clean = (soundfile.read(path)[0] for path in (clip.noisy, clip.clean))
        ratio = 10 * np.log10(active_power(clean) / active_power(noisy - clean))
        assert ratio == pytest.approx(float(clip.condition), abs=0.3)
        assert clip.noisy.read_bytes() == (corpus / "two" / "noisy" / clip.noisy.name).read_bytes()
