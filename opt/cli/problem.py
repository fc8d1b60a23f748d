"""The commands that make questions: instances, and tables of buffers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, cast

import typer

from instances.build import MAX_GROUP
from instances.generate import Phase, Precision
from instances.instance import Pricing
from instances.packing import random_buffers, write_buffers
from opt import api
from opt.cli.app import app
from opt.cli.display import show_lines
from opt.cli.files import check_outputs
from opt.cli.pipelining import Price, with_prices
from opt.words import size


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="Name (see 'tilewright models') or path of a Hugging Face config.json.")],
    phase: Annotated[
        str,
        typer.Option(
            metavar="prefill|decode",
            help="New tokens per sequence: many, or one. Of an encoder-decoder: the encoder and the decoder's first "
            "tokens, or one step of the decoder, with what it needs of the encoder in a cache.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Instance file to write.")],
    batch: Annotated[int, typer.Option(help="Sequences.")] = 1,
    tokens: Annotated[
        int | None,
        typer.Option(help="New tokens per sequence; default 1 in decode and of an encoder-decoder, all of an encoder."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Positions attended to per sequence, the new ones included; decode wants it.")
    ] = None,
    source: Annotated[
        int | None, typer.Option(help="Positions of an encoder-decoder's encoder; default the model's own.")
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Blocks of each stack, from the first; default all.")] = None,
    tp: Annotated[int, typer.Option(help="Ranks of tensor parallelism.")] = 1,
    dtype: Annotated[str, typer.Option(metavar="bfloat16|float16|w8a8", help="Element type.")] = "bfloat16",
    ends: Annotated[
        bool | None, typer.Option("--ends/--no-ends", help="Embedding and head; default when all blocks are there.")
    ] = None,
    absorbed: Annotated[
        bool | None,
        typer.Option(
            "--absorbed/--expanded",
            help="Latent attention over the latents, or over keys and values expanded from them; default absorbed in "
            "decode, expanded in prefill.",
        ),
    ] = None,
    max_group: Annotated[int, typer.Option(help="Most operators in a kernel.")] = MAX_GROUP,
    machine: Annotated[
        str, typer.Option(help="Name (see 'tilewright machines') or path of a machine file.")
    ] = api.DEFAULT_MACHINE,
    price: Price = Pricing.ESTIMATE,
) -> None:
    """Make an instance of a model on a chip.

    \b
    Example:
      tilewright generate llama-3-8b --phase decode --batch 8 --context 4096 --layers 1 -o layer.json
    """
    started = time.monotonic()
    check_outputs([output])
    instance = api.generate(
        model,
        phase=cast(Phase, phase),
        batch=batch,
        tokens=tokens,
        context=context,
        layers=layers,
        tp=tp,
        dtype=cast(Precision, dtype),
        ends=ends,
        absorbed=absorbed,
        source=source,
        max_group=max_group,
        machine=machine,
    )
    instance = with_prices(instance, price)
    api.save(instance, output)
    census = instance.census
    lines = [
        ("instance", instance.name),
        ("graph", f"{len(instance.graph.operators)} operators, {len(instance.graph.tensors)} tensors"),
        ("kernels", f"{census.groups} groups of up to {census.max_group} operators, {census.structures} structures"),
        ("tilings", f"{census.priced_tilings} priced, {census.kept_tilings} kept"),
        ("time", f"{time.monotonic() - started:.2f} s"),
        ("file", f"{output}, {size(output.stat().st_size)}"),
    ]
    show_lines(lines, err=True)


@app.command()
def buffers(
    count: Annotated[int, typer.Argument(help="How many.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV file to write.")],
    longest: Annotated[int | None, typer.Option(help="Longest lifetime; default a tenth of all instants.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Make a table of random buffers, to pack.

    \b
    Example:
      tilewright buffers 10000 -o buffers.csv && tilewright solve buffers.csv --time-limit 10
    """
    check_outputs([output])
    write_buffers(random_buffers(count, longest or max(1, count // 10), seed), None, output)
