"""The token language model: clean acoustic tokens, one frame after the other, given the noise-invariant frames.

    L = -sum_i log p(t_i | t_<i, condition)

Frame i has `groups` tokens, predicted side by side. There is no end token, since there are as many token frames
as the speech has. The condition comes in one of two ways:

    prefix    frames c_0 .. c_N-1 stand before the tokens; c_i and the prediction of t_i have the same position,
              so that the rotary embedding sees their distance as 0
    aligned   c_i is added to the input that predicts t_i

transformers takes positions that start again at 0 for another sequence and cuts the prefix off, unless it
is given the attention mask explicitly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr.compat import cache_name
from enhance.l3se.part import Part

CONDITIONING = ("prefix", "aligned")


class TokenLM(Part):
    """A Llama decoder (transformers) over token frames.

    Args:
        condition_width: features of a condition frame.
        repeat: token frames in a condition frame.
        groups, codes: tokens a frame, and how many different ones a group has.
        width, layers, heads, feed_forward: of the decoder.
        conditioning: "prefix" or "aligned".
        label_smoothing: of the training loss.
        history_dropout: share of the past frames that are hidden in training, so that the condition is used
            rather than the past alone.

    Raises:
        ValueError: an unknown way of conditioning.
    """

    stage = "l3se_lm"

    def __init__(
        self,
        condition_width: int,
        repeat: int,
        groups: int,
        codes: int,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        feed_forward: int = 768,
        conditioning: str = "prefix",
        label_smoothing: float = 0.1,
        history_dropout: float = 0.1,
    ):
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        if conditioning not in CONDITIONING:
            raise ValueError(f"conditioning is {conditioning!r}; choose from {', '.join(CONDITIONING)}")
        self.repeat, self.groups, self.codes, self.conditioning = repeat, groups, codes, conditioning
        self.label_smoothing, self.history_dropout = label_smoothing, history_dropout
        config = LlamaConfig(
            vocab_size=groups * codes,
            hidden_size=width,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        self.llama = LlamaForCausalLM(config)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.hidden = nn.Parameter(0.02 * torch.randn(width))  # stands for a dropped frame of the past
        self.project = nn.Linear(condition_width, repeat * width)
        self.register_buffer("offsets", codes * torch.arange(groups), persistent=False)

    # -- training ------------------------------------------------------------------------------------------

    def forward(self, condition: Tensor, tokens: Tensor) -> Tensor:
        """Logits of all tokens, each given those of the frames before it.

        Args:
            condition: [batch, frames, condition_width].
            tokens: [batch, token frames, groups]; token frames <= frames * repeat.

        Returns:
            float32 [batch, token frames, groups, codes].
        """
        frames = tokens.shape[1]
        condition, past = self._condition(condition)[:, :frames], self._past(tokens)
        if self.conditioning == "aligned":
            hidden = self._run(past + condition)
        else:
            positions = torch.arange(frames, device=past.device).repeat(2)[None]
            mask = prefix_mask(frames, frames, past.device)
            hidden = self._run(torch.cat([condition, past], 1), position_ids=positions, attention_mask=mask)
        return self._logits(hidden[:, -frames:])

    def loss(self, condition: Tensor, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy a token with label smoothing; `nll` without it and `accuracy` beside it."""
        logits, targets = self(condition, tokens).flatten(0, 2), tokens.flatten().long()
        log_probabilities = logits.log_softmax(-1)
        nll = -log_probabilities.gather(1, targets[:, None]).mean()
        loss = (1 - self.label_smoothing) * nll - self.label_smoothing * log_probabilities.mean()
        accuracy = (logits.argmax(-1) == targets).float().mean()
        return loss, {"nll": nll.detach(), "accuracy": accuracy}

    def _past(self, tokens: Tensor) -> Tensor:
        """Inputs [batch, frames, width]: for each frame the tokens before it; the first gets the start."""
        past = self._embed(tokens[:, :-1])
        if self.training and self.history_dropout:
            dropped = torch.rand(*past.shape[:2], 1, device=past.device) < self.history_dropout
            past = torch.where(dropped, self.hidden.to(past.dtype), past)
        return torch.cat([self.start.to(past.dtype).expand(len(tokens), 1, -1), past], 1)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, frames, groups] -> [batch, frames, width]."""
        return self.llama.get_input_embeddings()(tokens.long() + self.offsets).sum(2)

    def _condition(self, condition: Tensor) -> Tensor:
        """[batch, frames, condition_width] -> [batch, frames * repeat, width]."""
        return self.project(condition).unflatten(-1, (self.repeat, -1)).flatten(1, 2)

    def _run(self, inputs: Tensor, **options) -> Tensor:
        return self.llama.model(inputs_embeds=inputs, **options).last_hidden_state

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.llama.lm_head(hidden).float().unflatten(-1, (self.groups, self.codes))

    # -- generation ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def write(
        self,
        condition: Tensor,
        frames: int,
        temperature: float = 0.0,
        top_k: int = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Write tokens [batch, frames, groups], and the logits [batch, frames, groups, codes] they were taken from.

        Args:
            condition: [batch, condition frames, condition_width]; frames <= condition frames * repeat.
            temperature: 0 takes the likeliest token, otherwise tokens are drawn.
            top_k: draw from the k likeliest only; 0 from all.
            generator: of the draws.
        """
        from transformers import DynamicCache

        condition = self._condition(condition)[:, :frames]
        memory, prefix = {cache_name(self.llama.model.forward): DynamicCache(config=self.llama.config)}, 0
        if self.conditioning == "prefix":
            prefix, mask = frames, prefix_mask(frames, 0, condition.device)
            self._run(condition, use_cache=True, attention_mask=mask, **memory)
        step = self.start.expand(len(condition), 1, -1)
        written, found = [], []
        for frame in range(frames):
            inputs = step if prefix else step + condition[:, frame : frame + 1]
            hidden = self._run(
                inputs,
                use_cache=True,
                position_ids=torch.tensor([[frame]], device=condition.device),
                attention_mask=torch.ones(1, 1, 1, prefix + frame + 1, dtype=torch.bool, device=condition.device),
                **memory,
            )
            found.append(self._logits(hidden))
            written.append(pick(found[-1], temperature, top_k, generator))
            step = self._embed(written[-1])
        return torch.cat(written, 1), torch.cat(found, 1)


def prefix_mask(prefix: int, tokens: int, device: torch.device) -> Tensor:
    """Which inputs see which: the whole prefix is seen by all, the tokens only by themselves and later ones.

    Returns:
        bool [1, 1, prefix + tokens, prefix + tokens], True where row attends to column.
    """
    total = prefix + tokens
    mask = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    mask[:, :prefix] = True
    return mask[None, None]


def pick(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator | None) -> Tensor:
    """Tokens [...] of logits [..., codes]."""
    if temperature <= 0:
        return logits.argmax(-1)
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    probabilities = (logits / temperature).softmax(-1)
    return torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator).view(probabilities.shape[:-1])
