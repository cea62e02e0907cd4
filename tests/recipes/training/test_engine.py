"""The training engine on the toy language: it learns, resumes to the same place, and plans batches honestly."""

import json

import numpy as np
import pytest
import torch

from asr.ctc.encoder import EncoderConfig
from asr.ctc.model import CTCModel
from recipes.data.batching import Source, plan_epoch
from recipes.data.toy import toy_task
from recipes.training.engine import Trainer, TrainerConfig
from recipes.training.optimisation import Optimisation

TINY = EncoderConfig(width=32, heads=2, layers=(1, 1, 1), feed_forward=64, front_channels=4)


def trainer(folder, steps, muon=(), **config):
    task = toy_task(str(folder.parent / "data"), TINY, utterances=60, batch_seconds=6)
    options = {"average": 0.9, "log_every": 1, "validate_every": 1000, "checkpoint_every": 3, "progress": False}
    optimisation = Optimisation(3e-3, warmup=4, muon=list(muon))
    return Trainer(task, TrainerConfig(steps=steps, **{**options, **config}), optimisation, folder)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("muon", [(), ("encoder",)])
def test_interrupted_run_gives_the_losses_of_an_uninterrupted_one(tmp_path, muon):
    trainer(tmp_path / "whole", 8, muon).fit()

    class Killed(Exception):
        pass

    broken = trainer(tmp_path / "broken", 8, muon)
    step = broken._train_step

    def killed_at_five(batch):
        if broken.step == 5:
            raise Killed
        return step(batch)

    broken._train_step = killed_at_five
    with pytest.raises(Killed):
        broken.fit()
    trainer(tmp_path / "broken", 8, muon).fit()
    resumed = losses(tmp_path / "broken")
    assert losses(tmp_path / "whole") == resumed[:3] + resumed[5:]  # steps 4 and 5 were done twice
    first, second = (CTCModel.from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_workers_make_the_batches_that_the_process_itself_makes(tmp_path):
    for name, workers in (("alone", 0), ("helped", 2)):
        trainer(tmp_path / name, 12, workers=workers).fit()
    assert losses(tmp_path / "helped") == losses(tmp_path / "alone")


def test_training_lowers_the_loss_and_exports_a_model(tmp_path):
    trainer(tmp_path / "run", 40).fit()
    values = losses(tmp_path / "run")
    assert np.mean(values[-5:]) < 0.7 * np.mean(values[:5])
    model = CTCModel.from_pretrained(tmp_path / "run" / "model").eval()
    log_probabilities, lengths = model(torch.randn(2, 37, 80), torch.tensor([37, 20]))
    assert log_probabilities.shape[:2] == (2, 10) and lengths.tolist() == [10, 5]


def test_no_partial_checkpoint_is_left_behind(tmp_path):
    trainer(tmp_path / "run", 3).fit()
    assert not list((tmp_path / "run").glob("*.part"))


def test_accumulation_counts_optimiser_steps(tmp_path):
    run = trainer(tmp_path / "run", 2, accumulation=3)
    run.fit()
    assert run.step == 2 and run.position + run.epoch * 1000 >= 6


def sources():
    rng = np.random.default_rng(0)
    return [Source(rng.uniform(1, 12, 300), 0.75), Source(rng.uniform(1, 12, 40), 0.25)]


def test_batches_respect_length_and_share():
    batches = plan_epoch(sources(), 0.4, 30.0, (2, 10), seed=1, epoch=0)
    hours = [0.0, 0.0]
    for batch in batches:
        seconds = [sources()[s].seconds[i] for s, i in batch.items]
        assert max(seconds) * len(seconds) <= 30.0 and min(seconds) >= 2 and max(seconds) <= 10
        for (source, _), second in zip(batch.items, seconds, strict=True):
            hours[source] += second / 3600
    assert hours[0] == pytest.approx(0.3, abs=0.01) and hours[1] == pytest.approx(0.1, abs=0.01)


def test_a_small_source_is_used_up_before_it_repeats():
    source = Source(np.full(10, 5.0), 1.0)
    items = [i for b in plan_epoch([source], 17 * 5 / 3600 + 1e-6, 20.0, (0, 10), seed=0, epoch=0) for i in b.items]
    counts = np.bincount([i for _, i in items], minlength=10)
    assert counts.min() == 1 and counts.max() == 2 and counts.sum() == 17


def test_processes_share_an_epoch_without_overlap():
    whole = plan_epoch(sources(), 0.4, 30.0, (2, 10), 1, 0)
    parts = [plan_epoch(sources(), 0.4, 30.0, (2, 10), 1, 0, rank, 3) for rank in range(3)]
    assert len({len(p) for p in parts}) == 1
    seeds = [b.seed for p in parts for b in p]
    assert len(seeds) == len(set(seeds)) == len(whole) // 3 * 3
    assert plan_epoch(sources(), 0.4, 30.0, (2, 10), 1, 1) != whole


def test_rate_schedule():
    optimisation = Optimisation(warmup=10, decay=0.5)
    rates = [optimisation.rate(step, 100) for step in range(101)]
    assert (
        rates[0] == pytest.approx(0.1)
        and rates[9:51] == [1.0] * 42
        and rates[75] == pytest.approx(0.5)
        and rates[100] == 0
    )


def test_parts_of_a_model_learn_at_their_own_rates():
    from recipes.training.optimisation import parameter_groups

    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 3) for name in ("encoder", "encoders", "head")})
    model["encoder"].bias.requires_grad_(False)
    groups = parameter_groups(model, {"encoder": 0.1, "head": 0.5, "head.bias": 0.0}, 0.01)
    shares = {id(p): (g["share"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert shares[id(model["encoder"].weight)] == (0.1, 0.01) and shares[id(model["encoders"].weight)] == (1.0, 0.01)
    assert shares[id(model["head"].weight)] == (0.5, 0.01) and shares[id(model["head"].bias)] == (0.0, 0.0)
    assert id(model["encoder"].bias) not in shares
    with pytest.raises(ValueError, match="no weight of that name"):
        parameter_groups(model, {"decoder": 0.1}, 0.01)


def test_minutes_end_a_run_with_its_schedule_and_count_on_after_a_pause(tmp_path, monkeypatch):
    """On a clock that a step moves by ten seconds: two minutes are twelve steps, in one go or in two."""
    now = [1000.0]

    def clock():
        now[0] += 1e-6
        return now[0]

    monkeypatch.setattr("recipes.training.duration.time.perf_counter", clock)

    def run(folder, minutes):
        made = trainer(folder, 3, minutes=minutes)
        step = made._train_step

        def ten_seconds(batch):
            now[0] += 10
            return step(batch)

        made._train_step = ten_seconds
        made.fit()
        now[0] += 5000
        return made.step

    assert run(tmp_path / "whole", 2) == 12
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["rate"] / 3e-3 for line in lines if line["split"] == "train"]
    left = 1 - np.arange(12) / 12  # of the time, when a rate is chosen; the first four steps warm up
    assert rates[4:] == pytest.approx(list(np.minimum(1, left / 0.3)[4:]), abs=1e-3)
    assert (tmp_path / "whole" / "model").is_dir()
    assert run(tmp_path / "parts", 1) == 6 and run(tmp_path / "parts", 2) == 12


@pytest.mark.parametrize("minutes", [0, -1, "abc"])
def test_minutes_must_be_above_zero(minutes):
    with pytest.raises(ValueError, match="trainer.minutes is .*above 0"):
        TrainerConfig(minutes=minutes)


@pytest.mark.parametrize("steps", [0, -1, "abc", 1.5, True, None])
def test_steps_must_be_a_whole_number(steps):
    with pytest.raises(ValueError, match="trainer.steps is .*whole number of at least 1"):
        TrainerConfig(steps=steps)


def test_another_model_under_the_name_of_an_old_run_says_so(tmp_path):
    trainer(tmp_path / "run", 1).fit()
    other = trainer(tmp_path / "run", 2)
    other.task.__class__ = type("Twin", (type(other.task),), {})
    with pytest.raises(ValueError, match="of another model .*choose another name= or delete it"):
        other.fit()
    wider = EncoderConfig(width=48, heads=2, layers=(1, 1, 1), feed_forward=64, front_channels=4)
    task = toy_task(str(tmp_path / "data"), wider, utterances=60, batch_seconds=6)
    options = TrainerConfig(steps=2, average=0.9, progress=False)
    with pytest.raises(ValueError, match="of another model"):
        Trainer(task, options, Optimisation(), tmp_path / "run").fit()
