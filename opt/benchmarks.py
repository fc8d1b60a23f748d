"""The benchmark: layers and whole models that show what the solvers are worth, by name."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from instances.catalogue import load_model
from instances.documents import digest, write_text
from instances.instance import Instance
from opt import api

Phase = Literal["prefill", "decode"]

CONTEXT = 4096
"""Positions that a decode step attends to."""

PREFILL_TOKENS = 2048

DECODERS = {
    "llama-3-8b": 1,
    "llama-3-70b": 8,
    "qwen3-32b": 8,
    "qwen3-30b-a3b": 1,
    "mixtral-8x7b": 1,
    "deepseek-v2-lite": 1,
}
"""Decoders with the ranks of tensor parallelism they run on."""

ENCODERS = ("bert-base", "vit-b-16")

CHIPS = ("ascend910b2", "ascend950pr")

PHASES: tuple[tuple[Phase, int], ...] = (("decode", 1), ("decode", 32), ("prefill", 1))
"""What decoders do, with the number of sequences."""

SETS = ("layers", "models", "growth")
"""One layer of each model; all of its layers; one model with more and more layers."""

GROWTH_MODEL = "llama-3-70b"
GROWTH_LAYERS = (1, 4, 16, 48, 94)
"""Layers of the growth set; more than the model has are more of the same."""


def kind(phase: Phase, batch: int) -> str:
    """How names call what is run: the number of sequences counts where one token of each is decoded."""
    return f"{phase} {batch}" if phase == "decode" else phase


@dataclass(frozen=True)
class Case:
    """One instance of the benchmark."""

    model: str
    phase: Phase
    batch: int
    tp: int
    layers: int | None
    machine: str
    growing: bool = False

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.model} {kind(self.phase, self.batch)}" + (f", {self.layers} layers" if self.growing else "")

    def build(self) -> Instance:
        """The instance itself; takes up to some seconds."""
        decoding, causal = self.phase == "decode", self.model in DECODERS
        config = load_model(self.model)
        if self.growing:
            config = config.model_copy(update={"layers": max(config.layers, self.layers or 1)})
        return api.generate(
            config,
            phase=self.phase,
            batch=self.batch,
            tokens=None if decoding or not causal else PREFILL_TOKENS,
            context=CONTEXT if decoding else None,
            layers=self.layers,
            tp=self.tp,
            ends=False if self.growing else None,
            machine=self.machine,
        )


def cases(set_name: str) -> list[Case]:
    """The cases of one of :data:`SETS`."""
    if set_name == "growth":
        tp, chip = DECODERS[GROWTH_MODEL], CHIPS[0]
        return [
            Case(GROWTH_MODEL, phase, batch, tp, layers, chip, growing=True)
            for phase, batch in PHASES[1:]
            for layers in GROWTH_LAYERS
        ]
    layers = 1 if set_name == "layers" else None
    found = []
    for machine in CHIPS:
        for model, tp in DECODERS.items():
            for phase, batch in PHASES:
                found.append(Case(model, phase, batch, tp, layers, machine))
        found += [Case(model, "prefill", 1, 1, layers, machine) for model in ENCODERS]
    return found


def form(instance: Instance) -> str:
    """What a best-known latency holds for: graph, machine, candidates and their prices, in twelve characters."""
    prices = "".join(template.model_dump_json() for template in instance.templates)
    groups = "".join(candidate.model_dump_json() for candidate in instance.candidates)
    return digest(instance.fingerprint + prices + groups)[:12]


@dataclass(frozen=True)
class BestKnown:
    """The best latency and bound known for a case (ns), and the :func:`form` of the instance that they hold for."""

    set_name: str
    instance: str
    machine: str
    form: str
    objective_ns: int
    bound_ns: int
    bound_by: str

    @property
    def proven(self) -> bool:
        """Whether the latency is optimal."""
        return self.objective_ns == self.bound_ns


def read_best_known(path: str | Path | None = None) -> list[BestKnown]:
    """The values that come with the package, or those of a file."""
    place = files("instances").joinpath("best_known.csv") if path is None else Path(path)
    if not place.is_file():
        return []
    records = csv.DictReader(io.StringIO(place.read_text(encoding="utf-8")))
    return [
        BestKnown(
            set_name=record["set"],
            instance=record["instance"],
            machine=record["machine"],
            form=record["form"],
            objective_ns=int(record["objective_ns"]),
            bound_ns=int(record["bound_ns"]),
            bound_by=record["bound_by"],
        )
        for record in records
    ]


def write_best_known(values: Iterable[BestKnown], path: str | Path) -> None:
    """A table of best-known values, sorted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("set", "instance", "machine", "form", "objective_ns", "bound_ns", "bound_by"))
    for value in sorted(values, key=lambda one: (one.set_name, one.machine, one.instance)):
        writer.writerow(astuple(value))
    write_text(path, text.getvalue())


def improve_best_known(known: Iterable[BestKnown], found: Iterable[BestKnown]) -> list[BestKnown]:
    """Known values with new ones: the better latency and the better bound of each; of another form, the new alone."""
    best = {(value.set_name, value.instance, value.machine): value for value in known}
    for new in found:
        key = (new.set_name, new.instance, new.machine)
        old = best.get(key)
        if old is None or old.form != new.form:
            best[key] = new
            continue
        stronger = max(old, new, key=lambda value: value.bound_ns)
        best[key] = replace(stronger, objective_ns=min(old.objective_ns, new.objective_ns))
    return list(best.values())
