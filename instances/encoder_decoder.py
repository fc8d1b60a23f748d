"""An encoder, and a decoder that looks at it (T5, Whisper).

Operators of the encoder's blocks are called ``e0.``, ``e1.`` ..., those of the decoder's ``d0.`` ...; the attention of
a decoder's block to the encoder has ``cross_`` in its names.
"""

from __future__ import annotations

from instances.attention import Scope, relative_bias
from instances.catalogue import ModelConfig
from instances.ends import embed, embed_speech, embed_tokens, final_norm, finish
from instances.graph import Access, Role
from instances.graph_builder import GraphBuilder
from instances.layers import Crossing, add_block


def add_stacks(b: GraphBuilder, model: ModelConfig, layers: int, *, decode: bool, ends: bool) -> None:
    """The encoder's and the decoder's operators.

    Parameters
    ----------
    b
        Where they are collected.
    layers
        Most blocks of either stack, from the first.
    decode
        Whether the encoder has run before, and keys and values of its states lie in a cache, as those of earlier
        tokens do.
    ends
        Whether embeddings (or convolutions), final norm and head are there. The encoder's final norm, which
        lies between the stacks, always is.
    """
    crossing = Crossing(
        Scope(model, past=decode, causal=False, seq="seq", context="source"),
        None if decode else _encoder(b, model, min(layers, model.layers), ends),
    )
    x = _decoder_input(b, model, ends)
    bias = relative_bias(b, "d.", "seq", "context") if model.relative_buckets else None
    scope = Scope(model, past=b.extent("context") > b.extent("seq"), causal=True, bias=bias)
    count = min(layers, model.decoder_layers or 0)
    for layer in range(count):
        role = Role.OUTPUT if layer == count - 1 and not ends else Role.INTERMEDIATE
        x = add_block(b, scope, layer, x, role, stack="d", crossing=crossing)
    if ends:
        finish(b, model, x)


def _encoder(b: GraphBuilder, model: ModelConfig, layers: int, ends: bool) -> Access:
    """States ``[batch*source, hidden]``, normed."""
    if not ends:
        x = b.tensor("source_x", ("batch*source", "hidden"), Role.INPUT)
    elif model.mel_bins:
        x = embed_speech(b, model)
    else:
        x = embed_tokens(b, "source_", "source")
    bias = relative_bias(b, "e.", "source", "source_context") if model.relative_buckets else None
    scope = Scope(model, past=False, causal=False, bias=bias, seq="source", context="source_context")
    for layer in range(layers):
        x = add_block(b, scope, layer, x, Role.INTERMEDIATE, stack="e")
    return final_norm(b, model, x, prefix="source_")


def _decoder_input(b: GraphBuilder, model: ModelConfig, ends: bool) -> Access:
    if not ends:
        return b.tensor("x", ("batch*seq", "hidden"), Role.INPUT)
    return embed(b, model)
