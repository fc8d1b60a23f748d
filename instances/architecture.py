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
        ``decoder`` (causal, token ids in, logits out), ``encoder`` (token ids in, all positions see each other),
        ``vision`` (an encoder over image patches) or ``encoder_decoder`` (a decoder that also looks at what an
        encoder makes of another text or of speech).
    hidden, layers, heads, kv_heads, head_dim
        Width of the residual stream, number of blocks, query heads, key/value heads, elements per head. Under
        latent attention ``head_dim`` is ``nope_dim + rope_dim``. The heads together may be wider or narrower than
        the stream.
    decoder_layers
        Blocks of the decoder of an encoder-decoder, whose ``layers`` are then those of the encoder.
    ffn
        Inner width of the dense feed-forward block; ``None`` where every layer is a mixture of experts.
    vocab
        Rows of the token embedding; ``None`` for vision.
    activation, gated
        Function of the feed-forward block, and whether a second projection multiplies it (SwiGLU).
    norm, norm_position
        RMS or layer norm, before each sub-block or after each residual addition.
    max_positions, position_offset
        Positions that the table of positions serves (the decoder's, where there are two), and rows of it that stand
        before the first (OPT); ``None`` with rotary or relative positions.
    relative_buckets
        Distances that a table of relative positions tells apart, one value per head that is added to the scores of
        every block (T5).
    token_types
        Rows of the segment table (BERT).
    qkv_bias, k_bias, o_bias, mlp_bias, qk_norm
        Which projections carry a bias (``k_bias`` where that of the keys differs from ``qkv_bias``); whether queries
        and keys are normalised per head.
    tied_head, scaled_head
        Whether the output head shares the embedding's parameters, and whether its input is scaled first.
    query_layer
        Whether the last block takes its queries from a table of positions instead of hidden states (PanGu-alpha).
    experts, experts_per_token, expert_ffn, shared_experts, dense_layers
        Mixture of experts: routed experts, how many a token visits, the inner width of one, experts that every
        token visits, and how many leading layers are dense instead.
    router, expert_groups, groups_per_token, router_scale
        Function of the router's scores; groups of experts: a token visits the best experts of its best
        ``groups_per_token`` groups, or, where that is ``None``, as many of each group; whether the weight of an expert
        is multiplied by a learned scale.
    kv_latent, q_latent, nope_dim, rope_dim, v_dim
        Latent attention: rank of the compressed keys and values, rank of compressed queries (``None``: not
        compressed), elements per head without and with rotation, elements per value head.
    image_size, patch_size, channels
        Vision: pixels along an edge of the image and of a patch, colours.
    mel_bins, source_positions
        Speech: elements of a frame of the spectrogram, and positions of the encoder, each made of two frames.
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
    family: Literal["decoder", "encoder", "vision", "encoder_decoder"]
    hidden: Size
    layers: Annotated[int, Field(gt=0, le=MAX_LAYERS)]
    decoder_layers: Annotated[int, Field(gt=0, le=MAX_LAYERS)] | None = None
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
    position_offset: Annotated[int, Field(ge=0, le=1024)] = 0
    relative_buckets: Size | None = None
    token_types: Size | None = None
    qkv_bias: bool = False
    k_bias: bool | None = None
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = False
    scaled_head: bool = False
    query_layer: bool = False
    experts: Size | None = None
    experts_per_token: Size | None = None
    expert_ffn: Size | None = None
    shared_experts: Annotated[int, Field(ge=0, le=1024)] = 0
    dense_layers: Annotated[int, Field(ge=0, le=MAX_LAYERS)] = 0
    router: Literal["softmax", "sigmoid"] = "softmax"
    expert_groups: Size | None = None
    groups_per_token: Size | None = None
    router_scale: bool = False
    kv_latent: Size | None = None
    q_latent: Size | None = None
    nope_dim: Size | None = None
    rope_dim: Size | None = None
    v_dim: Size | None = None
    image_size: Size | None = None
    patch_size: Size | None = None
    channels: Size | None = None
    mel_bins: Size | None = None
    source_positions: Size | None = None
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
        if self.expert_groups and self.experts and self.experts_per_token:
            self._check_groups(self.expert_groups, self.experts, self.experts_per_token)
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
        self._check_stacks()
        return self

    def _check_groups(self, groups: int, experts: int, visited: int) -> None:
        """Whether experts can be dealt out to groups, and a token's to the groups it visits."""
        if experts % groups:
            raise ValueError(f"experts {experts} is not a multiple of expert_groups {groups}; mend one of them")
        if self.groups_per_token is None:
            if visited % groups:
                raise ValueError(
                    f"experts_per_token {visited} is not a multiple of expert_groups {groups}; give groups_per_token"
                )
        elif self.groups_per_token > groups:
            raise ValueError(
                f"groups_per_token {self.groups_per_token} exceeds expert_groups {groups}; lower the former"
            )
        elif visited > self.groups_per_token * (experts // groups):
            raise ValueError(
                f"experts_per_token {visited} exceeds what {self.groups_per_token} groups of {experts // groups} "
                "experts hold; lower it"
            )

    def _check_stacks(self) -> None:
        """Whether encoder, decoder and their positions go together."""
        if (self.decoder_layers is None) == (self.family == "encoder_decoder"):
            raise ValueError("decoder_layers belongs to family 'encoder_decoder'; give both or neither")
        if (self.mel_bins is None) != (self.source_positions is None):
            raise ValueError("mel_bins and source_positions belong together; give both")
        if self.relative_buckets and self.max_positions:
            raise ValueError("max_positions and relative_buckets exclude each other; leave one out")
        if self.family == "encoder_decoder":
            if self.experts or self.latent_attention or self.norm_position == "post":
                raise ValueError("an encoder_decoder with experts, latent attention or norms behind is not modelled")
            if self.max_positions is None and self.relative_buckets is None:
                raise ValueError("max_positions or relative_buckets is missing; give one")
            if self.max_positions and not self.mel_bins:
                raise ValueError("an encoder_decoder with max_positions is one of speech; give mel_bins")
        elif self.mel_bins or self.relative_buckets:
            raise ValueError("mel_bins and relative_buckets are those of an encoder_decoder; leave them out")
        if self.query_layer and (self.family != "decoder" or self.max_positions is None or self.layers < 2):
            raise ValueError("query_layer wants a decoder of two layers or more with max_positions; leave it out")

    @property
    def depth(self) -> int:
        """Blocks of the deepest stack."""
        return max(self.layers, self.decoder_layers or 0)

    @property
    def causal(self) -> bool:
        """Whether a new position sees earlier ones alone, so that keys and values are cached."""
        return self.family in ("decoder", "encoder_decoder")

    @property
    def key_bias(self) -> bool:
        """Whether the projection onto keys carries a bias."""
        return self.qkv_bias if self.k_bias is None else self.k_bias

    @property
    def rotary(self) -> bool:
        """Whether queries and keys are rotated by their positions."""
        return self.positions is None and self.relative_buckets is None

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
        """Positions of the position table: patches and a class token for vision; ``None``: there is no table."""
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
        return self._embedding_parameters + blocks + self._decoder_parameters + self._head_parameters

    def _norm_parameters(self, width: int) -> int:
        return width if self.norm == "rms" else 2 * width

    @property
    def _decoder_parameters(self) -> int:
        """Blocks of an encoder-decoder's decoder, the encoder's final norm, both tables of relative positions."""
        if self.decoder_layers is None:
            return 0
        norm = self._norm_parameters(self.hidden)
        block = 2 * self._attention_parameters + 3 * norm + self._mlp_parameters(self.ffn or 0)
        return self.decoder_layers * block + norm + 2 * (self.relative_buckets or 0) * self.heads

    @property
    def _embedding_parameters(self) -> int:
        count = (self.vocab or 0) + (self.positions or 0) + self.position_offset + (self.token_types or 0)
        if self.query_layer:
            count += self.positions or 0
        if self.mel_bins and self.source_positions:
            # two convolutions over three frames, their biases, the positions of the encoder
            count += 3 * (self.mel_bins + self.hidden) + 1 + 1 + self.source_positions
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
        count += (q_out + kv_out) if self.qkv_bias else 0
        count += kv_out if self.key_bias else 0
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
        router = self.experts * (self.hidden + self.router_scale)
        return router + (self.experts + self.shared_experts) * self._mlp_parameters(self.expert_ffn)
