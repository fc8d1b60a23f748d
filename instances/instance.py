"""An instance: graph, machine and the kernel candidates that a schedule may choose from."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Self

from pydantic import Field, model_validator

from instances.documents import SCHEMA_VERSION, Frozen, canonical_json, digest
from instances.graph import Graph, Name
from instances.kernels import Candidate, Implementation, Template
from instances.machine import Machine
from instances.notebook import html_table
from instances.pipelines.loop import PipelineSchedule


class Census(Frozen):
    """How the candidates came about, for people who ask what the bound covers.

    ``cut_short`` counts the operators around which the search for groups was ended before it was exhausted.
    """

    groups: int
    structures: int
    priced_tilings: int
    kept_tilings: int
    max_group: int
    cut_short: int = 0


class Pricing(StrEnum):
    """How kernels are priced: by the bottleneck engine, or by a modulo schedule of their loop."""

    ESTIMATE = "estimate"
    EXACT = "exact"


class Instance(Frozen):
    """The question: everything a schedule is chosen from and judged by.

    With exact prices, ``pipelines`` are the modulo schedules of the kernels' loops, and ``unscheduled`` fingerprints of
    loops for which none was found: such kernels keep their estimate.
    """

    schema_version: int = SCHEMA_VERSION
    name: Name
    origin: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    graph: Graph
    machine: Machine
    templates: tuple[Template, ...]
    candidates: tuple[Candidate, ...]
    census: Census
    price: Pricing = Pricing.ESTIMATE
    pipelines: tuple[PipelineSchedule, ...] = ()
    unscheduled: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        covered: set[str] = set()
        for index, candidate in enumerate(self.candidates):
            if candidate.template >= len(self.templates):
                raise ValueError(
                    f"candidate {index} names template {candidate.template}, but there are {len(self.templates)}"
                )
            for name in candidate.operators:
                if name not in self.graph.operator:
                    raise ValueError(f"candidate {index} names operator {name!r}, which is not in the graph")
            for name in (*candidate.reads, *candidate.writes):
                if name not in self.graph.tensor:
                    raise ValueError(f"candidate {index} names tensor {name!r}, which is not in the graph")
            covered.update(candidate.operators)
        for operator in self.graph.operators:
            if operator.name not in covered:
                raise ValueError(f"operator {operator.name!r} is in no candidate; rebuild the instance")
        if self.price is Pricing.ESTIMATE and (self.pipelines or self.unscheduled):
            raise ValueError("pipelines are given, but prices are estimates; say price exact, or leave them out")
        if len({schedule.loop for schedule in self.pipelines}) < len(self.pipelines):
            raise ValueError("a loop has two pipeline schedules; leave one")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 that a schedule carries: of what decides what is valid.

        That is graph and machine alone, and with exact prices the modulo schedules too.
        """
        both = self.graph.fingerprint + self.machine.fingerprint
        if self.price is Pricing.ESTIMATE:
            return digest(both)
        return digest(both + "".join(map(canonical_json, self.pipelines)) + "".join(self.unscheduled))

    @cached_property
    def schedule_of(self) -> Mapping[str, PipelineSchedule]:
        """Fingerprint of a loop -> its modulo schedule."""
        return {schedule.loop: schedule for schedule in self.pipelines}

    def _repr_html_(self) -> str:
        graph, census = self.graph, self.census
        stored = sum(tensor.size_bytes for tensor in graph.tensors if tensor.role.starts_in_hbm)
        rows = [
            ("graph", f"{len(graph.operators)} operators, {len(graph.tensors)} tensors"),
            ("in HBM at the start", f"{stored / 2**20:,.1f} MiB"),
            ("machine", self.machine.title),
            ("candidates", f"{len(self.candidates)} fusion groups of {len(self.templates)} structures"),
            ("tilings", f"{census.kept_tilings:,} kept of {census.priced_tilings:,} priced"),
        ]
        return html_table(self.name, rows)

    def implementations(self, candidate: Candidate) -> tuple[Implementation, ...]:
        """The ways to run a candidate."""
        return self.templates[candidate.template].implementations

    @cached_property
    def candidates_of(self) -> Mapping[str, tuple[int, ...]]:
        """Operator name -> indices of the candidates that hold it."""
        found: dict[str, list[int]] = {operator.name: [] for operator in self.graph.operators}
        for index, candidate in enumerate(self.candidates):
            for name in candidate.operators:
                found[name].append(index)
        return {name: tuple(indices) for name, indices in found.items()}
