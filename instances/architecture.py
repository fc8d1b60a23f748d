"""A transformer's configuration: what decides its operators and shapes, and its parameter count."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from instances.documents import Frozen
from instances.graph import Name

MAX_SIZE = 2**24
"""Most elements along an axis of a model; far above any published one."""

MAX_LAYERS = 10_000
"""Most blocks of a model."""

Size = Annotated[int, Field(gt=0, le=MAX_SIZE)]


class ModelConfig(Frozen):
    """What decides the operators and shapes of a transformer.

    Parameters
    ----------
    name
        Catalogue name, or taken from the file.
    family
        ``decoder`` (causal, token ids in, logits out), ``encoder`` (token ids in, all positions see each other)
        or ``vision`` (an encoder over image patches).
    hidden, layers, heads, kv_heads, head_dim
        Width of the residual stream, number of blocks, query heads, key/value heads, elements per head. Under
        latent attention ``head_dim`` is ``nope_dim + rope_dim``.
    ffn
        Inner width of the dense feed-forward block; ``None`` where every layer is a mixture of experts.
    vocab
        Rows of the token embedding; ``None`` for vision.
    activation, gated
        Function of the feed-forward block, and whether a second projection multiplies it (SwiGLU).
    norm, norm_position
        RMS or layer norm, before each sub-block or after each residual addition.
    max_positions
        Rows of the learned position table; ``None`` with rotary positions.
    token_types
        Rows of the segment table (BERT).
    qkv_bias, o_bias, mlp_bias, qk_norm
        Which projections carry a bias; whether queries and keys are normalised per head.
    tied_head
        Whether the output head shares the embedding's parameters.
    experts, experts_per_token, expert_ffn, shared_experts, dense_layers
        Mixture of experts: routed experts, how many a token visits, the inner width of one, experts that every
        token visits, and how many leading layers are dense instead.
    kv_latent, q_latent, nope_dim, rope_dim, v_dim
        Latent attention: rank of the compressed keys and values, rank of compressed queries (``None``: not
        compressed), elements per head without and with rotation, elements per value head.
    image_size, patch_size, channels
        Vision: pixels along an edge of the image and of a patch, colours.
    pooler
        Whether an encoder ends in a dense layer with tanh over the first position.
    sliding_window
        Positions a token may look back; ``None``: all.
    published_parameters
        The parameter count others give, for comparison with :attr:`parameters`.
    sources
        Field -> where its value was read.
    """

    name: Name
    family: Literal["decoder", "encoder", "vision"]
    hidden: Size
    layers: Annotated[int, Field(gt=0, le=MAX_LAYERS)]
    heads: Size
    kv_heads: Size
    head_dim: Size
    ffn: Size | None = None
    vocab: Size | None = None
    activation: Literal["silu", "gelu", "relu"]
    gated: bool
    norm: Literal["rms", "layer"]
    norm_position: Literal["pre", "post"] = "pre"
    max_positions: Size | None = None
    token_types: Size | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = False
    experts: Size | None = None
    experts_per_token: Size | None = None
    expert_ffn: Size | None = None
    shared_experts: Annotated[int, Field(ge=0, le=1024)] = 0
    dense_layers: Annotated[int, Field(ge=0, le=MAX_LAYERS)] = 0
    kv_latent: Size | None = None
    q_latent: Size | None = None
    nope_dim: Size | None = None
    rope_dim: Size | None = None
    v_dim: Size | None = None
    image_size: Size | None = None
    patch_size: Size | None = None
    channels: Size | None = None
    pooler: bool = False
    sliding_window: Size | None = None
    published_parameters: int | None = None
    sources: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}; mend one of them")
        experts = (self.experts, self.experts_per_token, self.expert_ffn)
        if any(experts) and not all(experts):
            raise ValueError("experts, experts_per_token and expert_ffn belong together; give all three")
        if self.experts and self.experts_per_token and self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token {self.experts_per_token} exceeds experts {self.experts}; lower the former"
            )
        if self.ffn is None and (not self.experts or self.dense_layers):
            raise ValueError("ffn is missing though some layer is dense; give it")
        latent = (self.kv_latent, self.nope_dim, self.rope_dim, self.v_dim)
        if any(latent) and not all(latent):
            raise ValueError("kv_latent, nope_dim, rope_dim and v_dim belong together; give all four")
        if self.family == "vision":
            if not (self.image_size and self.patch_size and self.channels):
                raise ValueError("image_size, patch_size and channels are missing; give all three")
            if self.image_size % self.patch_size:
                raise ValueError(
                    f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; mend one of them"
                )
        elif self.vocab is None:
            raise ValueError("vocab is missing; give it")
        return self

    @property
    def causal(self) -> bool:
        """Whether a position sees earlier ones alone, so that keys and values are cached."""
        return self.family == "decoder"

    @property
    def latent_attention(self) -> bool:
        """Whether keys and values are cached as one latent vector per position (MLA)."""
        return self.kv_latent is not None

    @property
    def patches(self) -> int:
        """Patches of an image; 0 but for vision."""
        return (self.image_size // self.patch_size) ** 2 if self.image_size and self.patch_size else 0

    @property
    def positions(self) -> int | None:
        """Rows of the learned position table: patches and a class token for vision; ``None``: rotary."""
        return self.patches + 1 if self.family == "vision" else self.max_positions

    def is_expert_layer(self, layer: int) -> bool:
        """Whether layer ``layer`` (from 0) is a mixture of experts."""
        return self.experts is not None and layer >= self.dense_layers

    @cached_property
    def parameters(self) -> int:
        """Number of parameters; those of a tied head once.

        Counted from the shapes alone: embeddings, blocks, final norm, head or pooler. Agrees with the totals
        that Hugging Face's model classes have (``sum(p.numel() for p in model.parameters())``).
        """
        expert_layers = sum(self.is_expert_layer(layer) for layer in range(self.layers))
        blocks = self.layers * (self._attention_parameters + 2 * self._norm_parameters(self.hidden))
        blocks += expert_layers * self._expert_parameters
        blocks += (self.layers - expert_layers) * self._mlp_parameters(self.ffn or 0)
        return self._embedding_parameters + blocks + self._head_parameters

    def _norm_parameters(self, width: int) -> int:
        return width if self.norm == "rms" else 2 * width

    @property
    def _embedding_parameters(self) -> int:
        count = (self.vocab or 0) + (self.positions or 0) + (self.token_types or 0)
        if self.family == "vision":
            pixels = (self.channels or 0) * (self.patch_size or 0) ** 2
            count += pixels + 1 + 1  # patch projection, its bias, the class token
        norm = self._norm_parameters(self.hidden) if self.norm_position == "post" else 0
        return count * self.hidden + norm

    @property
    def _head_parameters(self) -> int:
        final_norm = self._norm_parameters(self.hidden) if self.norm_position == "pre" else 0
        if self.causal:
            return final_norm + (0 if self.tied_head else (self.vocab or 0) * self.hidden)
        return final_norm + (self.hidden * (self.hidden + 1) if self.pooler else 0)

    @property
    def _attention_parameters(self) -> int:
        if self.kv_latent and self.nope_dim and self.rope_dim and self.v_dim:
            q_out = self.heads * (self.nope_dim + self.rope_dim)
            q = self.hidden * q_out
            if self.q_latent:
                q = self.q_latent * (self.hidden + 1 + q_out)
            down = self.hidden * (self.kv_latent + self.rope_dim) + self.kv_latent
            up = self.kv_latent * self.heads * (self.nope_dim + self.v_dim)
            return q + down + up + self.heads * self.v_dim * self.hidden
        q_out, kv_out = self.heads * self.head_dim, self.kv_heads * self.head_dim
        count = self.hidden * (q_out + 2 * kv_out) + q_out * self.hidden
        count += (q_out + 2 * kv_out) if self.qkv_bias else 0
        count += self.hidden if self.o_bias else 0
        return count + (2 * self._norm_parameters(self.head_dim) if self.qk_norm else 0)

    def _mlp_parameters(self, width: int) -> int:
        matrices = 3 if self.gated else 2
        biases = (matrices - 1) * width + self.hidden if self.mlp_bias else 0
        return matrices * self.hidden * width + biases

    @property
    def _expert_parameters(self) -> int:
        if not (self.experts and self.expert_ffn):
            return 0
        return self.hidden * self.experts + (self.experts + self.shared_experts) * self._mlp_parameters(self.expert_ffn)
