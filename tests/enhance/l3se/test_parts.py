"""Backbones, codec, discriminators, NI-Encoder and language model of L3-SE, at toy sizes."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from asr.ctc.encoder import EncoderConfig
from asr.hybrid.encoder import EncoderSizes
from enhance.l3se.backbone import (
    CompactBackbone,
    WhisperBackbone,
    load_backbone,
    make_backbone,
    pretrained_backbone,
)
from enhance.l3se.codec import WavCodec
from enhance.l3se.corruption import Corrupter, CorruptionConfig, limit_band, lose_packets, reverberate
from enhance.l3se.discriminators import Discriminators, MelLoss
from enhance.l3se.encoder import LEAST, NIEncoder, distillation_loss, similarities
from enhance.l3se.language_model import TokenLM, prefix_mask
from enhance.l3se.semantic import semantic_teacher

TINY = dataclasses.asdict(EncoderConfig(width=32, heads=2, layers=(1, 1, 1), feed_forward=32, front_channels=4))
WHISPER = dataclasses.asdict(EncoderSizes(mels=80, width=32, heads=2, layers=2, feed_forward=48, dropout=0.1))


@pytest.fixture(scope="module")
def wavlm_folder(tmp_path_factory):
    """A random WavLM with the traps of the published ones: layer drop, masks, dropout."""
    from transformers import WavLMConfig, WavLMModel

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
        layerdrop=0.5,
        mask_time_prob=0.5,
    )
    folder = tmp_path_factory.mktemp("wavlm")
    WavLMModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["compact", "whisper", "wavlm"])
def backbone(request, wavlm_folder):
    torch.manual_seed(0)
    made = {"compact": lambda: CompactBackbone(TINY), "whisper": lambda: WhisperBackbone(WHISPER)}
    return made.get(request.param, lambda: pretrained_backbone(wavlm_folder))()


def codec_of(backbone, **options):
    torch.manual_seed(0)
    sizes = {"groups": 2, "channels": 16, "layers": 2, **options}
    return WavCodec(list(backbone.widths), backbone.hop, backbone.width, **sizes)


def test_states_of_all_layers_come_at_the_frame_rate(backbone):
    for samples in (1, 399, 400, 16_000, 16_001):
        states, frames = backbone(torch.randn(2, samples))
        assert frames.tolist() == [-(-samples // backbone.hop)] * 2
        assert [tuple(s.shape) for s in states] == [(2, int(frames[0]), width) for width in backbone.widths]
        assert all(torch.isfinite(s).all() for s in states)


def test_targets_are_the_same_in_every_call_even_in_training_mode(backbone):
    wave = torch.randn(1, 8000)
    first, second = (torch.cat([s.flatten() for s in backbone.train()(wave)[0]]) for _ in range(2))
    torch.testing.assert_close(first, second)


def test_padding_does_not_change_a_representation(backbone):
    waves, lengths = torch.zeros(2, 9600), torch.tensor([9600, 5120])
    for row, length in zip(waves, lengths, strict=True):
        row[:length] = torch.randn(int(length))
    together, frames = backbone.eval()(waves, lengths)
    alone, _ = backbone(waves[1:, : lengths[1]])
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many[1:, : frames[1]], one, atol=1e-4, rtol=1e-3)


def test_waves_of_one_length_are_heard_as_each_alone():
    """They take one call for all; the loud one must not set the floor of the quiet one."""
    backbone = WhisperBackbone(WHISPER).eval()
    waves = torch.randn(3, 6400) * torch.tensor([[1.0], [1e-4], [0.1]])
    together, alone = backbone(waves)[0], [backbone(wave[None])[0] for wave in waves]
    for layer, states in enumerate(together):
        torch.testing.assert_close(states, torch.cat([one[layer] for one in alone]), atol=1e-4, rtol=1e-4)


def test_backbone_round_trip(backbone, tmp_path):
    backbone.save_pretrained(tmp_path)
    wave = torch.randn(1, 5000)
    for state, other in zip(backbone.eval()(wave)[0], load_backbone(tmp_path).eval()(wave)[0], strict=True):
        torch.testing.assert_close(state, other)
    assert make_backbone(backbone.spec).state_dict().keys() == backbone.state_dict().keys()
    with pytest.raises(ValueError, match="known are compact, whisper, wavlm"):
        make_backbone({"kind": "hubert"})


def test_encoder_of_the_recogniser_that_ships_and_of_a_whisper_as_it_is(tmp_path):
    from transformers import WhisperFeatureExtractor

    from recipes.data.toy import sentences
    from recipes.training.toy_parts import writing_whisper

    wave = 0.1 * torch.randn(1, 12_345)
    ours = pretrained_backbone("tiny").eval()
    states, frames = ours(wave)
    assert ours.widths == (160, *[384] * 5) and [s.shape[1] for s in states] == [int(frames[0])] * 6

    place = writing_whisper(tmp_path / "whisper", sentences(50, np.random.default_rng(0)))
    whisper = pretrained_backbone(place).eval()
    wave = wave[:, : 32 * 320]
    features = WhisperFeatureExtractor(80, chunk_length=1)(wave[0].numpy(), sampling_rate=16_000, padding="do_not_pad")
    mel = torch.tensor(features["input_features"][0]).T
    torch.testing.assert_close(whisper(wave)[0][0][0], mel.reshape(32, 160), atol=1e-3, rtol=1e-3)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="no speech encoder"):
        pretrained_backbone(tmp_path)


def test_the_compact_backbone_does_not_hear_the_level():
    backbone, wave = CompactBackbone(TINY), 0.1 * torch.randn(1, 16_000)
    for state, other in zip(backbone(wave)[0], backbone(5 * wave)[0], strict=True):
        torch.testing.assert_close(state, other, atol=2e-2, rtol=1e-2)


def test_codec_round_trip_has_the_shape_of_its_input_at_every_length(backbone):
    codec = codec_of(backbone).eval()
    for samples in [*range(1, 2001, 37), 319, 320, 321, 639, 640, 641, 2000]:
        wave = torch.randn(1, samples)
        tokens = codec.encode(codec.represent(backbone(wave)[0]))
        assert tokens.shape[1] >= -(-samples // 320) and tokens.shape[2] == 2
        decoded = codec.decode(tokens[:, : -(-samples // 320)], samples)
        assert decoded.shape == wave.shape and torch.isfinite(decoded).all()


def test_tokens_decode_to_what_the_digits_synthesise(backbone):
    codec = codec_of(backbone).eval()
    digits, tokens = codec.quantise(codec.represent(backbone(torch.randn(1, 4000))[0]))
    assert int(tokens.max()) < codec.codes == 4096 and codec.tokens_per_second == 100
    torch.testing.assert_close(codec.decode(tokens, 4000), codec.synthesise(digits, 4000))


def test_codec_learns_to_resynthesise(backbone):
    wave = 0.3 * torch.sin(torch.arange(8000) * 0.2)[None] * torch.linspace(0.1, 1, 8000)
    codec, mel = codec_of(backbone), MelLoss()
    optimiser = torch.optim.Adam(codec.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        digits, _ = codec.quantise(codec.represent([s.detach() for s in backbone.eval()(wave)[0]]))
        loss = mel(codec.synthesise(digits, 8000), wave)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]
    assert codec.aggregate.logits.grad.abs().sum() > 0  # the gradient passes the rounding


def test_hops_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="480"):
        WavCodec([32], 480, 32)


def test_one_backward_pass_trains_discriminators_and_decoder_apart():
    torch.manual_seed(0)
    judges = Discriminators(4, periods=[2], windows=[256])
    real, fake = torch.randn(2, 4000), torch.randn(2, 4000, requires_grad=True)
    own, adversarial, matching = judges.losses(fake, real)
    own.backward(retain_graph=True)
    assert fake.grad is None and all(p.grad is not None for p in judges.parameters())
    for parameter in judges.parameters():
        parameter.grad = None
    (adversarial + matching).backward()
    assert fake.grad.abs().sum() > 0 and all(p.grad is None for p in judges.parameters())


def test_an_undistilled_student_answers_as_its_teachers(backbone):
    codec = codec_of(backbone)
    student = NIEncoder.from_teachers(backbone.eval(), {"acoustic": codec}).eval()
    wave = torch.randn(1, 6000)
    target = codec.represent(backbone(wave)[0])
    torch.testing.assert_close(student(wave)[0]["acoustic"], target)
    assert similarities(student, student(wave)[0], {"acoustic": target})["acoustic"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("distance", ["mse", "l1", "cosine"])
def test_distillation_distances(distance):
    student = NIEncoder({"kind": "compact", "encoder": TINY})
    target = {name: torch.randn(2, 9, 32) + 5 for name in ("acoustic", "semantic")}
    student.set_statistics(target)
    standard = student.standardise(target)["acoustic"]
    torch.testing.assert_close(standard.mean((0, 1)), torch.zeros(32), atol=1e-4, rtol=0)
    other = {**target, "semantic": target["semantic"] + torch.randn(2, 9, 32)}
    loss, parts = distillation_loss(student, other, target, distance, {"acoustic": 1.0, "semantic": 0.5})
    assert float(parts["acoustic"]) == pytest.approx(0, abs=1e-5)
    assert float(loss) == pytest.approx(0.5 * float(parts["semantic"]), rel=1e-4) and float(loss) > 0.01
    with pytest.raises(ValueError, match="cosine"):
        distillation_loss(student, other, target, "huber", {})


@pytest.fixture(params=["prefix", "aligned"])
def language_model(request):
    torch.manual_seed(0)
    return TokenLM(12, repeat=2, groups=2, codes=16, width=32, layers=2, heads=2, feed_forward=48,
                   conditioning=request.param, history_dropout=0.0)  # fmt: skip


def test_the_loss_changes_when_the_condition_is_shuffled(language_model):
    """After training on tokens that the condition decides; without a mask, transformers would cut the prefix off."""
    torch.manual_seed(1)
    tokens = torch.randint(0, 16, (8, 12, 2))
    condition = torch.nn.functional.one_hot(tokens[:, ::2, 0], 12 + 4)[..., :12].float()
    optimiser = torch.optim.Adam(language_model.parameters(), 3e-3)
    for _ in range(60):
        loss, _ = language_model.loss(condition, tokens)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    nll, shuffled = (float(language_model.loss(c, tokens)[1]["nll"]) for c in (condition, condition.roll(1, 0)))
    assert shuffled > nll + 0.3


def test_every_condition_frame_reaches_the_prediction_and_no_future_token_does(language_model):
    condition = torch.randn(1, 6, 12, requires_grad=True)
    tokens = torch.randint(0, 16, (1, 12, 2))
    language_model(condition, tokens)[0, 6].sum().backward()
    reached = condition.grad[0].abs().sum(1) > 0
    expected = [True] * 6 if language_model.conditioning == "prefix" else [True] * 4 + [False] * 2
    assert reached.tolist() == expected
    changed = tokens.clone()
    changed[0, 6] = (tokens[0, 6] + 1) % 16
    before, after = (language_model(condition, t).detach()[0] for t in (tokens, changed))
    torch.testing.assert_close(before[:7], after[:7])
    assert not torch.allclose(before[7], after[7])


def test_prefix_mask():
    mask = prefix_mask(2, 2, torch.device("cpu"))[0, 0].int().tolist()
    assert mask == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_a_prefix_frame_has_the_position_of_its_token(language_model):
    """Rotary attention depends on distances only, so shifting everything changes nothing; here it is c_i and t_i."""
    if language_model.conditioning != "prefix":
        pytest.skip("aligned frames are added, they have no positions of their own")
    seen = {}
    run = language_model._run

    def recorded(inputs, **options):
        seen.update(options)
        return run(inputs, **options)

    language_model._run = recorded
    language_model(torch.randn(1, 3, 12), torch.zeros(1, 5, 2, dtype=torch.long))
    assert seen["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]] and seen["attention_mask"].ndim == 4


def test_generation_with_a_cache_is_the_likeliest_token_of_the_whole_pass(language_model):
    language_model.eval()
    condition = torch.randn(2, 6, 12)
    tokens, logits = language_model.write(condition, 11)
    assert tokens.shape == (2, 11, 2)
    whole = language_model(condition, tokens)
    assert torch.equal(whole.argmax(-1), tokens)
    torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)


def test_sampling_repeats_with_its_seed_and_keeps_to_the_top(language_model):
    language_model.eval()
    condition = torch.randn(1, 20, 12)
    drawn = [
        language_model.write(condition, 40, temperature=2.0, generator=torch.Generator().manual_seed(seed))[0]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    only_best, _ = language_model.write(condition, 40, temperature=2.0, top_k=1)
    assert torch.equal(only_best, language_model.write(condition, 40)[0])


def test_unknown_conditioning_is_refused():
    with pytest.raises(ValueError, match="prefix, aligned"):
        TokenLM(4, 1, 1, 8, width=8, layers=1, heads=1, feed_forward=8, conditioning="cross")


# -- corruption --------------------------------------------------------------------------------------------


@pytest.fixture
def corrupter(hum, tmp_path):
    import soundfile

    for kind in ("speech", "noise"):
        (tmp_path / kind).mkdir()
    soundfile.write(tmp_path / "speech" / "a.wav", hum(30_000)[0], 16_000)
    noise = np.random.default_rng(0).standard_normal(20_000) * 0.1
    soundfile.write(tmp_path / "noise" / "n.wav", noise, 16_000)
    return lambda **options: Corrupter(
        [tmp_path / "speech" / "a.wav"], [tmp_path / "noise" / "n.wav"], CorruptionConfig(seconds=0.5, **options)
    )


def test_a_pair_is_a_function_of_its_seed_and_of_the_stated_levels(corrupter):
    everything = corrupter(clean_probability=0, room=1, clipping=1, packet_loss=1, band_limit=1)
    for number in range(5):
        noisy, clean = everything.pair(np.random.default_rng(number))
        again = everything.pair(np.random.default_rng(number))
        np.testing.assert_array_equal((noisy, clean), again)
        assert noisy.shape == clean.shape == (8000,) and np.abs(noisy).max() == pytest.approx(0.9, abs=1e-3)


def test_clean_inputs_are_the_target_up_to_a_gain(corrupter):
    noisy, clean = corrupter(clean_probability=1).pair(np.random.default_rng(0))
    gain = (noisy @ clean) / (clean @ clean)
    np.testing.assert_allclose(noisy, gain * clean, atol=1e-3)


def test_a_room_does_not_delay_the_direct_path(hum):
    speech = np.zeros(8000, np.float32)
    speech[1000] = 1.0
    wet = reverberate(speech, np.random.default_rng(3))
    assert np.abs(wet[:999]).max() < 1e-4 and wet[1000] > 0.9 and np.abs(wet[1100:]).sum() > 0.1


def test_band_limit_and_lost_packets():
    wave = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(limit_band(wave, 4.0)))
    assert spectrum[2500:].mean() < 0.01 * spectrum[:1500].mean()
    assert limit_band(wave, 16.0) is wave
    lost = lose_packets(wave, 0.5, np.random.default_rng(0)).reshape(-1, 320)
    silent = ~lost.any(1)
    assert 10 < silent.sum() < 40 and np.array_equal(lost[~silent], wave.reshape(-1, 320)[~silent])


def test_training_state_of_the_discriminators_travels_with_the_model():
    """They live under the model that the engine saves; a copy by state dict is the same."""
    from recipes.tasks.l3se.codec import CodecTraining

    backbone = CompactBackbone(TINY)
    first = CodecTraining(codec_of(backbone), Discriminators(4, [2], [256]))
    first.batches += 7
    second = copy.deepcopy(CodecTraining(codec_of(backbone), Discriminators(4, [2], [256])))
    second.load_state_dict(first.state_dict())
    wave = torch.randn(1, 2000)
    assert int(second.batches) == 7
    torch.testing.assert_close(first.discriminators(wave)[0][-1], second.discriminators(wave)[0][-1])


def test_the_branch_of_a_recogniser_teaches_without_training():
    from asr.audio import load
    from asr.ctc.beam import greedy
    from asr.hybrid.model import HybridModel
    from asr.loading import shipped

    backbone, teacher = semantic_teacher("tiny")
    model = HybridModel.from_pretrained(shipped("tiny")).eval()
    wave = torch.from_numpy(load("asr/sample.flac")[: 200 * 320])[None]  # whole frames
    states, frames = backbone(wave)
    heard, _ = model.encoder(*model.features([wave[0]]))
    said = teacher.represent(states)
    torch.testing.assert_close(said, model.branch.mix(heard), atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        expected = greedy(*model(*model.features([wave[0]]))[2:], model.units)[0].text
    assert teacher.transcribe(states, frames) == [expected] and len(expected.split()) > 8
    student = NIEncoder.from_teachers(backbone, {"semantic": teacher}).eval()
    answer = student(wave)[0]["semantic"]
    assert torch.nn.functional.cosine_similarity(answer, said, dim=-1).min() > 0.99
    teacher.aggregate.logits.data.clamp_(min=LEAST)
    torch.testing.assert_close(answer, teacher.represent(states), atol=1e-4, rtol=1e-4)
    answer.square().sum().backward()
    assert student.heads["semantic"].logits.grad.abs().min() > 1e-3  # states that the teacher never hears as well


def test_a_branch_on_the_last_states_alone_teaches_too():
    from asr.hybrid.branch import BranchSizes, CTCBranch
    from asr.text.tokenizer import Tokenizer
    from enhance.l3se.semantic import BranchTeacher

    branch = CTCBranch(BranchSizes(units=20, mixes=False), 32, 2, 64, encoder_layers=2).eval()
    states = [torch.randn(1, 7, width) for width in (160, 32, 32, 32)]
    teacher = BranchTeacher(branch, Tokenizer.__new__(Tokenizer), (160, 32, 32, 32))
    torch.testing.assert_close(teacher.represent(states), branch.mix(states), atol=1e-5, rtol=1e-5)


def test_what_has_no_branch_cannot_teach(tmp_path):
    for place in (tmp_path, tmp_path / "never" / "trained"):
        with pytest.raises(FileNotFoundError, match="no semantic teacher.*experiment=l3se_semantic"):
            semantic_teacher(place)
