"""Training task and evaluation on a tiny corpus."""

import json

import numpy as np
import pytest
import soundfile
import torch

from enhance.loading import load_enhancer
from enhance.networks.adaptcrn import AdaptCRN, AdaptCRNConfig
from recipes.evaluate import main
from recipes.evaluation.enhance_systems import label
from recipes.evaluation.evaluate_enhance import find_clips, format_table, measure_clips, paired_files, spread, summarise
from recipes.tasks.enhance import EnhanceTask, FolderPairs, MetricTerm, MixedPairs


@pytest.fixture
def pairs(hum, tmp_path):
    """Six noisy and clean files at two ratios in the layout of `recipes.mix dev`."""
    rows = ["id\tsnr_db\tspeech\tnoise"]
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
    for number in range(6):
        clean = hum(12_000 + number)[0]
        noise = np.random.default_rng(number).standard_normal(len(clean)) * (0.02 if number % 2 else 0.2)
        soundfile.write(tmp_path / "clean" / f"c{number}.wav", clean, 16_000)
        soundfile.write(tmp_path / "noisy" / f"c{number}.wav", 0.5 * (clean + noise), 16_000)
        rows.append(f"c{number}\t{10 if number % 2 else -5}\ts.wav\tn.wav")
    (tmp_path / "mixture.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def measured(pairs, *args, **options):
    clips = find_clips(pairs)
    return summarise(clips, measure_clips(clips, *args, **options))


def task(pairs, source=None, **options):
    source = source or FolderPairs(str(pairs / "noisy"), str(pairs / "clean"), seconds=0.5)
    return EnhanceTask(
        AdaptCRNConfig(num_kernels=2), source, str(pairs), batch=2, validation_clips=2, **options
    )


def test_batches_are_a_function_of_seed_and_epoch(pairs):
    first, second = task(pairs), task(pairs)
    plans = first.train_batches(3, 0, 1)
    assert sorted(n for plan in plans for n in plan.pairs) == list(range(6))
    assert [p.pairs for p in plans] == [p.pairs for p in second.train_batches(3, 0, 1)]
    assert [p.pairs for p in plans] != [p.pairs for p in first.train_batches(4, 0, 1)]
    for name in ("noisy", "clean"):
        torch.testing.assert_close(first.load(plans[0])[name], second.load(plans[0])[name])
    for parameter, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(parameter, other)


def test_processes_share_an_epoch(pairs):
    shares = [task(pairs).train_batches(0, rank, 2) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 1 and set(shares[0][0].pairs).isdisjoint(shares[1][0].pairs)


def test_pairs_mixed_on_the_fly_change_with_the_epoch(pairs):
    source = MixedPairs([str(pairs / "clean")], [str(pairs / "noisy")], size=4)
    assert not np.array_equal(source.pair(1, 0, 0)[0], source.pair(1, 1, 0)[0])
    np.testing.assert_array_equal(source.pair(1, 0, 0), source.pair(1, 0, 0))


def test_pairs_on_the_fly_hear_measured_rooms(pairs):
    from enhance.mixing import MixtureConfig

    always = MixtureConfig(seconds=0.5, room_probability=1.0, measured_room_share=1.0)
    folders = [str(pairs / "clean")], [str(pairs / "noisy")]
    measured = MixedPairs(*folders, size=4, mixture=always, rooms=[str(pairs / "noisy")])
    assert not np.array_equal(measured.pair(0, 0, 0), MixedPairs(*folders, size=4, mixture=always).pair(0, 0, 0))


def test_a_perceptual_term_is_part_of_the_loss(pairs):
    plain, perceptual = (task(pairs, perceptual=weight) for weight in (0.0, 0.5))
    batch = plain.load(plain.train_batches(0, 0, 1)[0])
    (loss, _), (more, parts) = (t.loss(t.model.train(), batch) for t in (plain, perceptual))
    assert float(more.detach()) == pytest.approx(float(loss.detach()) + 0.5 * parts["disturbance"], rel=1e-4)


def test_what_a_listener_misses_is_part_of_the_loss(pairs, monkeypatch):
    """A stand-in for DNSMOS, whose own network is heard in test_opinion.py."""
    heard = []

    class Listener(torch.nn.Module):
        def forward(self, wave):
            heard.append(wave.shape[0])
            return torch.tensor([2.0, 3.0, 1.0]) + 0 * wave.sum(1, keepdim=True)

    monkeypatch.setattr("recipes.tasks.enhance.Opinion", Listener)
    plain, pleasing = (task(pairs, opinion=weight) for weight in (0.0, 0.5))
    batch = plain.load(plain.train_batches(0, 0, 1)[0])
    (loss, _), (more, parts) = (t.loss(t.model.train(), batch) for t in (plain, pleasing))
    assert heard == [1] and (parts["signal"], parts["background"], parts["overall"]) == (2, 3, 1)
    assert float(more.detach()) == pytest.approx(float(loss.detach()) + 0.5 * (5 - 2), rel=1e-4)


def test_training_lowers_the_loss(pairs):
    trained = task(pairs)
    batch = trained.load(trained.train_batches(0, 0, 1)[0])
    optimiser, losses = torch.optim.Adam(trained.model.parameters(), 3e-3), []
    for _ in range(12):
        loss, parts = trained.loss(trained.model.train(), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0] and {"si_snr", "magnitude", "complex"} == parts.keys()


def test_a_metric_term_trains_both_and_exports_the_enhancer_only(pairs, tmp_path):
    pytest.importorskip("pesq")
    trained = task(pairs, metric=MetricTerm("pesq", weight=0.1))
    batch = trained.load(trained.train_batches(0, 0, 1)[0])
    loss, parts = trained.loss(trained.model.train(), batch)
    loss.backward()
    assert all(p.grad is not None for p in trained.model.parameters())
    assert {"judge", "metric_loss", "pesq"} <= parts.keys()
    assert np.isfinite(trained.validate(trained.model.eval())["loss"])
    trained.export(trained.model, tmp_path / "exported")
    assert AdaptCRN.from_pretrained(tmp_path / "exported").config == AdaptCRNConfig(num_kernels=2)


def test_validation_and_export(pairs, tmp_path):
    trained = task(pairs)
    metrics = trained.validate(trained.model.eval())
    assert all(np.isfinite(metrics[name]) for name in ("loss", "si_snr", "si_snr_gain"))
    trained.export(trained.model, tmp_path / "exported")
    assert AdaptCRN.from_pretrained(tmp_path / "exported").config == AdaptCRNConfig(num_kernels=2)


def test_evaluation_per_ratio(pairs):
    result = measured(pairs, pairs / "clean", ["si_snr", "stoi"], wer=False)
    name = f"{pairs.name}/clean"
    systems = result["systems"]
    assert result["clips"] == 6 and set(systems["noisy"]) == {"all", "-5", "10"}
    assert systems["noisy"]["10"]["si_snr"] > systems["noisy"]["-5"]["si_snr"] + 10
    mean = (systems["noisy"]["10"]["si_snr"] + systems["noisy"]["-5"]["si_snr"]) / 2
    assert systems["noisy"]["all"]["si_snr"] == pytest.approx(mean)
    assert list(systems) == ["noisy", name, "clean"]
    assert systems[name]["all"]["si_snr"] > 60  # the clean files themselves
    assert name in format_table(result)


def test_evaluation_of_a_model_writes_table_and_json(pairs, saved_model, capsys):
    output, parameters = pairs / "result.json", sum(p.numel() for p in load_enhancer(saved_model).parameters())
    arguments = [f"data={pairs}", f"enhance={saved_model}", "metrics=[si_snr]", "wer=false"]
    assert main([*arguments, "limit=2", f"output={output}"]) == 0
    result = json.loads(output.read_text())
    row = result["systems"][label(saved_model)]["all"]
    assert result["clips"] == 2 and np.isfinite(row["si_snr"]) and row["rtf"] > 0
    assert result["parameters"] == {label(saved_model): parameters}
    assert f"{parameters:,} parameters" in capsys.readouterr().out


def test_shards_find_what_one_process_finds(pairs, capsys):
    arguments = [f"data={pairs}", f"enhance={pairs / 'clean'}", "metrics=[si_snr]", "wer=false"]
    assert main([*arguments, f"output={pairs / 'whole.json'}"]) == 0
    sharded = [*arguments, f"output={pairs / 'parts.json'}", "shard_count=2"]
    assert main([*sharded, "shard_index=1"]) == 0
    assert not (pairs / "parts.json").exists() and "parts.0of2.json" in capsys.readouterr().err
    written = (pairs / "parts.1of2.json").stat().st_mtime_ns
    assert main([*sharded, "shard_index=0"]) == 0
    assert (pairs / "parts.json").read_text() == (pairs / "whole.json").read_text()
    assert main([*sharded, "shard_index=1"]) == 0  # again: nothing is measured twice
    assert (pairs / "parts.1of2.json").stat().st_mtime_ns == written
    assert main([*sharded, "shard_index=1", "limit=4"]) == 0  # other settings: measured anew
    assert (pairs / "parts.1of2.json").stat().st_mtime_ns > written


def test_word_errors_are_pooled(pairs, monkeypatch):
    """A recogniser that hears one word more in noisy files, against given texts and against the clean file."""

    class Hears:
        def __call__(self, wave, sampling_rate):
            loud = bool(np.abs(wave).max() > 0.3)  # only the noisy files at -5 dB are that loud
            return type("Transcript", (), {"text": "red green blue" + " white" * loud})

    monkeypatch.setattr("recipes.evaluation.evaluate_enhance._recogniser", Hears)
    noisy = measured(pairs, metrics=["si_snr"])["systems"]["noisy"]
    assert noisy["-5"]["dwer"] == pytest.approx(1 / 3) and noisy["10"]["dwer"] == 0
    assert noisy["all"]["dwer"] == pytest.approx(1 / 6)
    (pairs / "texts.tsv").write_text("id\ttext\ns\tred green blue white\n")
    noisy = measured(pairs, metrics=["si_snr"], texts=pairs / "texts.tsv")["systems"]["noisy"]
    assert noisy["-5"]["wer"] == 0 and noisy["10"]["wer"] == pytest.approx(1 / 4)


def test_changes_of_word_errors_have_paired_intervals(pairs):
    """Ten words a clip; the enhanced one loses one error in every clip, or in every other clip."""
    clips = find_clips(pairs)
    measured = {
        clip.id: {
            "noisy": {"wer_errors": 3 + n, "wer_words": 10},
            "always": {"wer_errors": 2 + n, "wer_words": 10},
            "sometimes": {"wer_errors": 3 + n - n % 2, "wer_words": 10},
        }
        for n, clip in enumerate(clips)
    }
    result = summarise(clips, measured)
    always, sometimes = (result["word_errors"]["all"][name] for name in ("always", "sometimes"))
    assert always["change"] == always["low"] == always["high"] == pytest.approx(-0.1)
    assert sometimes["change"] == pytest.approx(-0.05) and sometimes["low"] < -0.05 < sometimes["high"]
    assert "always: word error rate -0.100 (-0.100 to -0.100) against noisy" in format_table(result)


def test_voicebank_demand_layout(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voicebank")
    (pairs / "noisy").rename(folder / "noisy_testset_wav")
    (pairs / "clean").rename(folder / "clean_testset_wav")
    (folder / "log_testset.txt").write_text("".join(f"c{n} bus {2.5 + 5 * (n % 2)}\n" for n in range(6)))
    clips = find_clips(folder)
    assert [c.condition for c in clips] == ["2.5", "7.5"] * 3
    assert [c.id for c in spread(clips, 2)] == ["c0", "c3"]


def test_folders_that_do_not_fit_are_explained(tmp_path, capsys):
    assert main([f"data={tmp_path}", "enhance=adaptcrn"]) == 2
    assert "neither noisy/ and clean/" in capsys.readouterr().err
    (tmp_path / "noisy").mkdir()
    with pytest.raises(FileNotFoundError, match="clean: no such folder"):
        paired_files(tmp_path / "noisy", tmp_path / "clean")
    (tmp_path / "clean").mkdir()
    for path in ("noisy/a.wav", "noisy/._a.wav", "clean/._a.wav", "clean/a.flac"):
        (tmp_path / path).touch()
    pair = tmp_path / "noisy/a.wav", tmp_path / "clean/a.flac"
    assert paired_files(tmp_path / "noisy", tmp_path / "clean") == [pair]


def test_download_unpacks_and_does_not_repeat_itself(tmp_path, capsys):
    """The corpus as archives in a local folder."""
    import zipfile

    from recipes.data.download_enhance import FOLDERS, LOGS
    from recipes.data.download_enhance import main as download

    for name, entry in [(folder, f"{folder}/p232_001.wav") for folder in FOLDERS] + [
        (LOGS, "logs/log_testset.txt")
    ]:
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(entry, name)
    out, source = tmp_path / "corpus", tmp_path.as_uri()
    assert download([str(out), "--source", source]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted([*FOLDERS, "log_testset.txt"])
    assert (out / FOLDERS[0] / "p232_001.wav").read_text() == FOLDERS[0]
    assert download([str(out), "--source", "file:///nowhere"]) == 0
    assert download([str(tmp_path / "other"), "--source", "file:///nowhere"]) == 1
    assert (
        len(capsys.readouterr().err.strip().splitlines()[-1:]) == 1
        and list((tmp_path / "other").iterdir()) == []
    )


@pytest.mark.gpu
def test_weights_are_exported_from_a_gpu(tmp_path):
    model = AdaptCRN(AdaptCRNConfig(num_kernels=2)).cuda()
    model.enhance(torch.randn(1, 16_000, device="cuda"))
    EnhanceTask.export(None, model, tmp_path / "model")  # cuDNN has put each GRU's weights into one piece of memory
    loaded = load_enhancer(tmp_path / "model").state_dict()
    assert all(torch.allclose(value.cpu(), loaded[name], atol=1e-3) for name, value in model.state_dict().items())
