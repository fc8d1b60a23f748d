"""What stands before and after the blocks: embeddings, convolutions over speech, final norm, head, pooler."""

from __future__ import annotations

from instances.catalogue import ModelConfig
from instances.graph import Access, DType, OpKind, Role
from instances.graph_builder import GraphBuilder, work

TOKENS = "batch*seq"

FRAMES_PER_POSITION = 2
"""Stride of the second convolution over speech."""


def embed(b: GraphBuilder, model: ModelConfig) -> Access:
    """Hidden states ``[batch*seq, hidden]`` of token ids or of image patches."""
    x = _embed_patches(b) if model.family == "vision" else embed_tokens(b)
    if model.positions is not None:
        shape = (model.positions + model.position_offset, model.hidden)
        positions = b.tensor("w_positions", ("seq", "hidden"), Role.WEIGHT, shape=shape)
        x = b.add("embed_positions", x, b.rows_of(positions, b.extent("seq")), "positioned")
    if model.token_types:
        types = b.picked(b.weight("w_types", ("types", "hidden")), ("1", "hidden"), 1)
        x = b.add("embed_types", x, types, "typed")
    if model.norm_position == "post":
        x = b.norm("", "embed_norm", x, rms=model.norm == "rms", whole=("hidden",))
    return x


def embed_tokens(b: GraphBuilder, prefix: str = "", seq: str = "seq") -> Access:
    """Rows of the embedding table, ``[batch*seq, hidden]``; all stacks look them up in one table."""
    tokens = f"batch*{seq}"
    ids = b.tensor(f"{prefix}token_ids", (tokens,), Role.INPUT, DType.INT32)
    rows = -(-b.extent(tokens) // b.tp)  # each rank looks up the tokens of its share of the vocabulary
    reads = ids, b.picked(b.weight("w_embed", ("vocab", "hidden")), (tokens, "hidden"), rows)
    x = b.tensor(f"{prefix}embedded", (tokens, "hidden"))
    vector = work("move", b.elements(x))
    b.op(f"{prefix}embed", OpKind.GATHER, reads, (x,), vector=vector, note="distinct tokens")
    return b.all_reduce(f"{prefix}embed_all_reduce", x, f"{prefix}embedded_reduced")


def embed_speech(b: GraphBuilder, model: ModelConfig) -> Access:
    """Hidden states ``[batch*source, hidden]`` of the frames of a spectrogram (Whisper, arXiv 2212.04356).

    Two convolutions over three frames, the second of stride two, as matmuls over the windows laid out in rows; both
    are on every rank.
    """
    frames = b.tensor("mel", ("batch*frames", "mel_bins"), Role.INPUT)
    x = _convolution(b, "conv1", frames, "batch*frames", "mel_bins", "channels")
    x = _convolution(b, "conv2", x, "batch*source", "channels", "hidden")
    positions = b.tensor("w_source_positions", ("source", "hidden"), Role.WEIGHT)
    return b.add("source_embed_positions", x, positions, "source_positioned")


def _convolution(b: GraphBuilder, name: str, x: Access, rows: str, channels: str, columns: str) -> Access:
    """A convolution over a window of three rows, and GELU."""
    windows = b.tensor(f"{name}_windows", (rows, f"window*{channels}"))
    read = b.picked(x, windows.dims, b.extent(x.dims[0]))
    note = "three frames after each other, zeros beyond the ends"
    b.op(f"{name}_windows", OpKind.PERMUTE, (read,), (windows,), note=note)
    out = b.project("", name, windows, columns, bias=True, quantize=False, op=name)
    act = b.tensor(f"{name}_act", out.dims)
    b.op(f"{name}_act", OpKind.ACTIVATION, (out,), (act,), vector=work("gelu", b.elements(act)))
    return act


def top_queries(b: GraphBuilder, model: ModelConfig) -> Access:
    """What the queries of a query layer are made of, ``[batch*seq, hidden]``: a row per position."""
    ids = b.tensor("position_ids", (TOKENS,), Role.INPUT, DType.INT32)
    table = b.tensor("w_top_queries", ("seq", "hidden"), Role.WEIGHT, shape=(model.positions or 0, model.hidden))
    out = b.tensor("top_queries", (TOKENS, "hidden"))
    reads = ids, b.picked(table, out.dims, b.extent("seq"))
    b.op("embed_top_queries", OpKind.GATHER, reads, (out,), vector=work("move", b.elements(out)))
    return out


def _embed_patches(b: GraphBuilder) -> Access:
    """Patches through a convolution whose kernel equals its stride, a matmul, behind a class token."""
    pixels = b.tensor("pixels", ("batch*patches", "pixels"), Role.INPUT)
    patches = b.project("", "patches", pixels, "hidden", bias=True, quantize=False, op="patch_embed")
    token = b.weight("w_class", ("hidden",))
    x = b.tensor("embedded", (TOKENS, "hidden"))
    shifted = b.picked(patches, x.dims, b.extent("batch*patches"))
    b.op("prepend_class", OpKind.PERMUTE, (shifted, token), (x,), note="class token before the patches")
    return x


def final_norm(
    b: GraphBuilder, model: ModelConfig, x: Access, role: Role = Role.INTERMEDIATE, prefix: str = ""
) -> Access:
    """The norm behind the last block of a stack."""
    return b.norm(prefix, "final_norm", x, rms=model.norm == "rms", whole=("hidden",), role=role)


def finish(b: GraphBuilder, model: ModelConfig, x: Access, normed: bool = False) -> None:
    """Final norm, unless it has been there, then logits of each sequence's last token, or the pooled first position."""
    if model.norm_position == "pre" and not normed:
        x = final_norm(b, model, x, Role.INTERMEDIATE if model.causal else Role.OUTPUT)
    if model.causal:
        x = _one_position(b, x, "last_token")
        if model.scaled_head:
            scaled = b.tensor("head_scaled", x.dims)
            b.op("head_scale", OpKind.ELEMENTWISE, (x,), (scaled,), vector=work("scale", b.elements(x)))
            x = scaled
        split = b.tp > 1
        logits = b.tensor("logits", (x.dims[0], "vocab"), Role.INTERMEDIATE if split else Role.OUTPUT)
        b.matmul("lm_head", (x, b.weight("w_lm_head", ("hidden", "vocab"))), logits)
        if split:
            gathered = b.tensor("gathered_logits", ("ranks", *logits.dims), Role.OUTPUT)
            note = f"all-gather of {b.tp} ranks, each sending its part"
            size = b.size_bytes(logits)
            b.op("lm_head_all_gather", OpKind.COLLECTIVE, (logits,), (gathered,), link_bytes=size, note=note)
    elif model.pooler:
        first = _one_position(b, x, "first_token")
        pooled = b.project("", "pooler", first, "pooled", bias=True, quantize=False, op="pooler")
        out = b.tensor("pooled", pooled.dims, Role.OUTPUT)
        b.op("pooler_tanh", OpKind.ACTIVATION, (pooled,), (out,), vector=work("tanh", b.elements(out)))


def _one_position(b: GraphBuilder, x: Access, name: str) -> Access:
    """One row per sequence of ``x``: ``[batch, hidden]``; ``x`` itself where it has no more."""
    if b.extent("seq") == 1:
        return x
    out = b.tensor(f"{name}_rows", ("batch", "hidden"))
    b.op(name, OpKind.GATHER, (b.picked(x, out.dims, b.extent("batch")),), (out,))
    return out
