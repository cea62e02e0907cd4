"""The large path on tiny random parts: prefix and cache, kinds of language models, LoRA, saving."""

import dataclasses

import pytest
import torch

from asr.pretrained.config import LanguagePart, LargeASRConfig, LoRA, Part, ProjectorConfig
from asr.pretrained.model import LargeASR
from asr.pretrained.projector import make_projector
from asr.text.tokenizer import Tokenizer
from recipes.training.toy_parts import EMPTY, language_model, whisper
from tests.asr.conftest import waves

TEXTS = ["the cat sat on the mat", "a dog sat there", "she said that"] * 5


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of tiny parts by kind, written once."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("parts")
    folders = {"whisper": whisper(root / "whisper")}
    for kind in ("modernbert", "eurobert", "bert", "llama"):
        folders[kind] = language_model(root / kind, kind, TEXTS, chat=kind == "llama")
    return folders


@pytest.fixture(scope="module")
def units():
    return Tokenizer.train(TEXTS, 48)


def make(parts, units, model="llama", kind="decoder", lora=None, **language):
    torch.manual_seed(1)
    config = LargeASRConfig(Part(parts["whisper"]), LanguagePart(parts[model], kind=kind, **language), lora=lora)
    return LargeASR.create(config, units).eval()


def heard(model, *seconds):
    with torch.no_grad():
        return model.listen(model.encoder.features(waves(*seconds)))


CANVAS = torch.tensor([[5, 9, 3, 3, 7, 3], [11, 3, 3, 5, 1, 1]])
VALID = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


@torch.no_grad()
def logits(model, frames, lengths, cached):
    return model.denoise(CANVAS, model.remember(frames, lengths, cached), valid=VALID)[VALID]


@pytest.mark.parametrize("model", ["llama", "eurobert"])
def test_the_cache_is_exact_where_the_prefix_does_not_see_the_canvas(parts, units, model):
    network = make(parts, units, model)
    frames, lengths = heard(network, 1.0, 0.6)
    assert network.remember(frames, lengths).cache is not None
    torch.testing.assert_close(logits(network, frames, lengths, True), logits(network, frames, lengths, False))


def test_the_cache_is_an_approximation_where_the_prefix_sees_the_canvas(parts, units):
    network = make(parts, units, prefix_sees_canvas=True)
    frames, lengths = heard(network, 1.0, 0.6)
    cached, uncached = (logits(network, frames, lengths, c) for c in (True, False))
    assert (cached - uncached).abs().max() > 1e-3
    assert torch.corrcoef(torch.stack((cached.flatten(), uncached.flatten())))[0, 1] > 0.5


def test_a_pass_leaves_the_cache_as_it_was(parts, units):
    network = make(parts, units)
    speech = network.remember(*heard(network, 1.0, 0.6))
    with torch.no_grad():
        first, second = (network.denoise(CANVAS, speech, valid=VALID) for _ in range(2))
    assert torch.equal(first, second)


def test_a_canvas_is_read_in_both_directions_and_a_prefix_is_heard(parts, units):
    for model, kind in (("llama", "decoder"), ("modernbert", "masked")):
        network = make(parts, units, model, kind)
        frames, lengths = heard(network, 1.0, 0.6)
        before = logits(network, frames, lengths, True)
        other = CANVAS.clone()
        other[:, 3] = 20
        with torch.no_grad():
            after = network.denoise(other, network.remember(frames, lengths), valid=VALID)[VALID]
            deaf = logits(network, torch.randn_like(frames), lengths, True)
        assert (before[0] - after[0]).abs().max() > 1e-4  # position 0 sees position 3
        assert (before - deaf).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("model", "kind"), [("llama", "decoder"), ("eurobert", "decoder"), ("modernbert", "masked"), ("bert", "masked")]
)
def test_padding_changes_nothing(parts, units, model, kind):
    """An utterance alone and beside a longer one: prefix padded on the left, canvas on the right."""
    network = make(parts, units, model, kind)
    frames, lengths = heard(network, 1.0, 0.6)
    together = logits(network, frames, lengths, True)[6:]
    alone_speech = network.remember(frames[1:, : int(lengths[1])], lengths[1:])
    with torch.no_grad():
        alone = network.denoise(CANVAS[1:, :4], alone_speech)[0]
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-3)


def test_a_shifted_model_reads_each_token_one_position_earlier(parts, units):
    plain, shifted = make(parts, units), make(parts, units, shifted=True)
    shifted.load_trained_state(plain.trained_state())
    frames, lengths = heard(plain, 1.0)
    with torch.no_grad():
        expected = plain.denoise(CANVAS[:1], plain.remember(frames, lengths))
        for cached in (True, False):
            found = shifted.denoise(CANVAS[:1], shifted.remember(frames, lengths, cached))
            torch.testing.assert_close(found[:, 1:], expected[:, :-1])
    with torch.no_grad():
        cached, uncached = (shifted.denoise(CANVAS[:1], shifted.remember(frames, lengths, c)) for c in (True, False))
    torch.testing.assert_close(cached, uncached)


def test_llada_weights_read_into_llama_say_the_same(parts, units, tmp_path):
    """LLaDA's names and configuration, written from a Llama, give the Llama back."""
    import json
    import re

    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    from asr.pretrained.parts import LLADA_NAMES

    llama = LlamaForCausalLM.from_pretrained(parts["llama"])
    names = {  # from our names to LLaDA's, by hand, so that the table of patterns is checked and not used
        "embed_tokens": "transformer.wte", "input_layernorm": "attn_norm", "post_attention_layernorm": "ff_norm",
        "self_attn.o_proj": "attn_out", "self_attn.q_proj": "q_proj", "self_attn.k_proj": "k_proj",
        "self_attn.v_proj": "v_proj", "mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj", "mlp.down_proj": "ff_out",
        "model.layers": "model.transformer.blocks", "model.norm": "model.transformer.ln_f",
        "lm_head": "model.transformer.ff_out",
    }  # fmt: skip
    renamed = {}
    for key, value in llama.state_dict().items():
        for ours, theirs in names.items():
            key = re.sub(rf"(^|\.){re.escape(ours)}(?=\.)", lambda m, t=theirs: m[1] + t, key)
        assert any(re.match(pattern, key) for pattern in LLADA_NAMES), key
        renamed[key] = value.clone()
    folder = tmp_path / "llada"
    folder.mkdir()
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    c = llama.config
    values = {
        "model_type": "llada", "d_model": c.hidden_size, "n_layers": c.num_hidden_layers, "n_heads": 2, "n_kv_heads": 2,
        "mlp_hidden_size": c.intermediate_size, "vocab_size": c.vocab_size, "embedding_size": c.vocab_size,
        "rms_norm_eps": c.rms_norm_eps, "rope_theta": 10000.0, "max_sequence_length": 512, "weight_tying": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    reference, read = make(parts, units), make({**parts, "llada": str(folder)}, units, "llada")
    with torch.no_grad():
        embeddings, valid = torch.randn(1, 4, 32), torch.ones(1, 4, dtype=torch.bool)
        expected, found = (
            m.language_model.denoise(CANVAS[:1], VALID[:1], m.language_model.remember(embeddings, valid))
            for m in (reference, read)
        )
    torch.testing.assert_close(found, expected)


def test_remote_code_from_a_local_folder(parts, units, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    from transformers import AutoConfig, AutoTokenizer

    folder = tmp_path / "remote"
    AutoTokenizer.from_pretrained(parts["modernbert"]).save_pretrained(folder)
    (folder / "modeling_own.py").write_text(
        "from transformers import BertConfig, BertForMaskedLM\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own_diffusion'\n"
        "class OwnModel(BertForMaskedLM):\n    config_class = OwnConfig\n"
    )
    import json

    config = AutoConfig.from_pretrained(parts["bert"]).to_dict() | {
        "model_type": "own_diffusion",
        "auto_map": {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config, default=str))
    from safetensors.torch import load_file, save_file

    save_file(load_file(parts["bert"] + "/model.safetensors"), folder / "model.safetensors", {"format": "pt"})
    network = make({**parts, "own": str(folder)}, units, "own", "masked", trust_remote_code=True)
    assert type(network.language_model.network).__name__ == "OwnModel"
    frames, lengths = heard(network, 0.6, 0.6)
    assert torch.isfinite(logits(network, frames, lengths, True)).all()


def test_diffusion_gemma_reads_the_prefix_from_its_encoder(parts, units, tmp_path):
    from transformers import AutoTokenizer, DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    tokenizer = AutoTokenizer.from_pretrained(parts["llama"])
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 16, "num_experts": 2,
        "top_k_experts": 1, "moe_intermediate_size": 32, "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 64,
    }  # fmt: skip
    vision = {
        "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    gemma = DiffusionGemmaForBlockDiffusion(DiffusionGemmaConfig(text_config=text, vision_config=vision))
    gemma.save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    network = make({**parts, "gemma": str(tmp_path / "gemma")}, units, "gemma", "block")
    frames, lengths = heard(network, 1.0, 0.6)
    cached, uncached = (logits(network, frames, lengths, c) for c in (True, False))
    torch.testing.assert_close(cached, uncached)
    assert (cached - logits(network, torch.randn_like(frames), lengths, True)).abs().max() > 1e-4


@pytest.mark.parametrize("start", ["default", "rslora", "dora", "pissa"])
def test_lora_starts_as_the_model_itself_and_alone_is_trained(parts, units, start):
    plain = make(parts, units)
    adapted = make(parts, units, lora=LoRA(rank=4, start=start))
    adapted.load_state_dict({k: v for k, v in plain.state_dict().items() if "language_model" not in k}, strict=False)
    frames, lengths = heard(plain, 1.0, 0.6)
    expected, found = (logits(m, frames, lengths, True) for m in (plain, adapted))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith(("projector", "ctc")) for name in trained)
    assert sum("lora_A" in name for name in trained) == 2 * 7


def test_lora_can_start_from_activations(parts, units):
    from asr.pretrained.parts import start_from_activations

    network = make(parts, units, lora=LoRA(rank=4, start="eva"))
    speech = network.remember(*heard(network, 1.0, 0.6), cached=False)
    before = logits(network, *heard(network, 1.0, 0.6), True)
    start_from_activations(network.language_model.network, [lambda: network.denoise(CANVAS, speech)] * 3)
    layer = network.language_model.network.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    torch.testing.assert_close(layer @ layer.T, torch.eye(4), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(logits(network, *heard(network, 1.0, 0.6), True), before)


def test_a_saved_folder_holds_what_was_trained_and_the_names_of_the_parts(parts, units, tmp_path):
    from safetensors.torch import load_file

    network = make(parts, units, lora=LoRA(rank=4))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.01
    network.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert all("lora_" in key or key.startswith(("projector", "ctc")) for key in saved)
    again = LargeASR.from_pretrained(tmp_path)
    assert again.config == network.config
    frames, lengths = heard(network, 1.0, 0.6)
    torch.testing.assert_close(logits(again, frames, lengths, True), logits(network, frames, lengths, True))
    with pytest.raises(ValueError, match="do not fit"):
        again.load_trained_state({"something.else": torch.zeros(1)})


def test_parts_without_a_name_are_saved_whole(parts, units, tmp_path):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = LargeASRConfig(
        Part(parts["whisper"]), LanguagePart(config={"model_type": "llama", "vocab_size": 40, **small}, kind="decoder")
    )
    network = LargeASR.create(config, units)
    network.save_pretrained(tmp_path)
    again = LargeASR.from_pretrained(tmp_path)
    embeddings, valid = torch.randn(1, 3, 32), torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        expected, found = (
            m.eval().language_model.denoise(CANVAS[:1], VALID[:1], m.language_model.remember(embeddings, valid))
            for m in (network, again)
        )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["conv", "mlp", "qformer"])
def test_projectors_shorten_and_ignore_padding(kind):
    projector = make_projector(32, 24, ProjectorConfig(kind, factor=4, window=8)).eval()
    x = torch.randn(2, 30, 32)
    with torch.no_grad():
        y, lengths = projector(x, torch.tensor([30, 13]))
        alone, length = projector(x[1:, :13], torch.tensor([13]))
    assert lengths.tolist() == [8, 4] and length.tolist() == [4] and y.shape[2] == 24
    torch.testing.assert_close(y[1, :4], alone[0, :4], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["wavlm", "wav2vec2-bert", "parakeet"])
def test_other_encoders(name, tmp_path):
    import transformers as t

    from asr.pretrained.speech import SpeechEncoder

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if name == "wavlm":
        convolutions = {"conv_dim": (16, 16), "conv_kernel": (10, 8), "conv_stride": (40, 8)}
        model = t.WavLMModel(t.WavLMConfig(**small, **convolutions, num_conv_pos_embedding_groups=2))
        t.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    elif name == "wav2vec2-bert":
        model = t.Wav2Vec2BertModel(t.Wav2Vec2BertConfig(**small))
        t.SeamlessM4TFeatureExtractor().save_pretrained(tmp_path)
    else:
        encoder = t.ParakeetEncoderConfig(**small, subsampling_conv_channels=8)
        model = t.ParakeetForCTC(t.ParakeetCTCConfig(vocab_size=12, pad_token_id=11, encoder_config=encoder.to_dict()))
        t.ParakeetFeatureExtractor().save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    encoder = SpeechEncoder(Part(str(tmp_path))).eval()
    frames, lengths = encoder(encoder.features(waves(1.0, 0.5)))
    assert frames.shape[2] == encoder.width == 32 and frames.shape[1] == lengths[0]
    assert lengths[1] / lengths[0] == pytest.approx(0.5, abs=0.06)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_mistakes_are_named(parts, units, monkeypatch):
    monkeypatch.setattr("asr.pretrained.parts.find_spec", lambda name: None)  # as if bitsandbytes were not installed
    with pytest.raises(ValueError, match="kind is 'bidirectional'"):
        LanguagePart("x", kind="bidirectional")
    with pytest.raises(ValueError, match="needs a name .* or a config"):
        Part()
    with pytest.raises(ValueError, match="power of two"):
        ProjectorConfig("conv", factor=3)
    with pytest.raises(ImportError, match="bitsandbytes"):
        make(parts, units, precision="4bit")
    with pytest.raises(ValueError, match="linear layers are"):
        make(parts, units, "modernbert", "masked", lora=LoRA(targets=("query_key",)))
    network = make(parts, units, mask_token="<|nothing|>")
    with pytest.raises(ValueError, match="mask_token '<|nothing|>' is not in the vocabulary"):
        network.tokens  # noqa: B018
    with pytest.raises(ValueError, match="4 s at once"):
        network.encoder.features(waves(5.0))
    config = dataclasses.replace(network.config, encoder=Part("somewhere"))
    with pytest.raises(ValueError, match="give its config"):
        config.without_weights()


def test_a_draft_is_tokenised_again_with_its_confidences(parts, units):
    network = make(parts, units, null_token=EMPTY)
    ids = units.encode("the cat sat")
    frames = torch.full((3 * len(ids), len(units)), 0.001)
    for i, token in enumerate(ids):
        frames[3 * i, token] = 0.5 if len(units.decode(ids[: i + 1]).split()) == 2 else 0.9  # "cat" is unsure
        frames[3 * i + 1 : 3 * i + 3, 0] = 0.9
    draft = network.tokens.draft(frames.log(), units)
    assert network.tokens.decode(draft.tokens) == "the cat sat"
    sure = {network.tokens.decode([t]): c for t, c in zip(draft.tokens, draft.confidences, strict=True)}
    assert sure["the"] == sure["sat"] == pytest.approx(0.9, abs=0.01)
    assert min(draft.confidences) == pytest.approx(0.5, abs=0.01)
    assert draft.times == sorted(draft.times) and draft.frames == len(frames)
    assert network.tokens.draft(torch.eye(len(units))[:1].clamp(1e-6).log(), units).tokens == []
