"""Tensor replacement as data: operators over whole tensors, a scratchpad, and the plan of what lies in it when.

One operator runs per step. While it runs, all that it reads and writes lies in the scratchpad, each tensor in one
piece. A tensor comes in when it is made, or by a fetch from off-chip memory before a step; it leaves at the end of
any step. To be fetched it must be off-chip: inputs and weights are from the start, what is made is once it has been
written back. Traffic that no plan avoids is compulsory: each input and weight in once, each output out once. All
other traffic is to be as little as can be.

Source of the problem: Li, Gupta, Malik, "Combined Scheduling, Memory Allocation and Tensor Replacement for Minimizing
Off-Chip Data Accesses of DNN Accelerators" (COSMA), arXiv 2311.18246.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, model_validator

from instances.documents import SCHEMA_VERSION, Frozen, canonical_json, digest
from instances.graph import Name

Bytes = Annotated[int, Field(gt=0, le=2**48)]
Offset = Annotated[int, Field(ge=0, le=2**48)]
Step = Annotated[int, Field(ge=0, le=2**31)]

Rate = Annotated[float, Field(gt=0, le=1e9)]

MOST_STEPS = 20_000
"""Operators of the largest problem that is read."""


class Part(StrEnum):
    """Where a tensor comes from and whether it must be off-chip in the end."""

    INPUT = "input"
    WEIGHT = "weight"
    INNER = "inner"
    OUTPUT = "output"


class Whole(Frozen):
    """A tensor, kept and moved whole."""

    name: Name
    size_bytes: Bytes
    part: Part = Part.INNER


class Use(Frozen):
    """An operator by the tensors that it reads and writes, and the time that it computes (ns)."""

    name: Name
    reads: tuple[Name, ...]
    writes: tuple[Name, ...] = Field(min_length=1)
    compute_ns: Annotated[int, Field(ge=0, le=2**40)] = 0


class Problem(Frozen):
    """What to decide: order, addresses and replacement. Operators stand in the program's order, a valid one.

    The rates matter where time is the objective; by default those of an Ascend 910B2's HBM and L2.
    """

    schema_version: int = SCHEMA_VERSION
    name: Name
    capacity_bytes: Bytes
    unit_bytes: Bytes = 1
    tensors: tuple[Whole, ...] = Field(min_length=1, max_length=10 * MOST_STEPS)
    operators: tuple[Use, ...] = Field(min_length=1, max_length=MOST_STEPS)
    slow_bytes_per_ns: Rate = 1190.0
    fast_bytes_per_ns: Rate = 3600.0

    @cached_property
    def tensor(self) -> Mapping[str, Whole]:
        """Tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def maker(self) -> Mapping[str, int]:
        """Position of the operator that writes a tensor."""
        return {name: i for i, operator in enumerate(self.operators) for name in operator.writes}

    @cached_property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """Positions of the operators that read a tensor."""
        found: dict[str, list[int]] = {tensor.name: [] for tensor in self.tensors}
        for i, operator in enumerate(self.operators):
            for name in dict.fromkeys(operator.reads):
                found[name].append(i)
        return {name: tuple(users) for name, users in found.items()}

    def room(self, name: str) -> int:
        """Bytes that a tensor takes in the scratchpad: its size in whole units."""
        return -(-self.tensor[name].size_bytes // self.unit_bytes) * self.unit_bytes

    @cached_property
    def least_bytes(self) -> int:
        """Smallest scratchpad that runs every operator: the most that one of them touches."""
        return max(sum(self.room(t) for t in {*o.reads, *o.writes}) for o in self.operators)

    @cached_property
    def compulsory_bytes(self) -> int:
        """Traffic of every plan: what is read from outside comes in once, outputs go out once."""
        outside = (Part.INPUT, Part.WEIGHT)
        return sum(t.size_bytes for t in self.tensors if t.part is Part.OUTPUT or t.part in outside)

    @cached_property
    def fingerprint(self) -> str:
        """What a plan is made for."""
        return digest(canonical_json(self))

    def within(self, capacity_bytes: int) -> Problem:
        """The same question for another scratchpad."""
        return Problem.model_validate({**self.model_dump(), "capacity_bytes": capacity_bytes})

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = self.tensor
        if len(known) < len(self.tensors):
            raise ValueError("two tensors have one name; rename one")
        if len({o.name for o in self.operators}) < len(self.operators):
            raise ValueError("two operators have one name; rename one")
        made: set[str] = set()
        used: set[str] = set()
        for operator in self.operators:
            for name in (*operator.reads, *operator.writes):
                if name not in known:
                    raise ValueError(f"operator {operator.name!r} names tensor {name!r}, which is not listed; add it")
            for name in operator.reads:
                if known[name].part in (Part.INNER, Part.OUTPUT) and name not in made:
                    raise ValueError(f"operator {operator.name!r} reads {name!r} before it is made; mend the order")
            for name in operator.writes:
                if name in made or known[name].part in (Part.INPUT, Part.WEIGHT):
                    raise ValueError(f"operator {operator.name!r} writes {name!r}, which is there already; rename it")
                made.add(name)
            used |= {*operator.reads, *operator.writes}
        if idle := [tensor.name for tensor in self.tensors if tensor.name not in used]:
            raise ValueError(f"tensor {idle[0]!r} is used by no operator; remove it")
        if self.capacity_bytes < self.least_bytes:
            raise ValueError(
                f"capacity_bytes {self.capacity_bytes} is too little: one operator touches {self.least_bytes} bytes; "
                "give at least that"
            )
        return self


class Stay(Frozen):
    """A tensor in the scratchpad from the start of step ``first`` to the end of step ``last``.

    ``fetched`` says that it came from off-chip memory; otherwise it is made at ``first``.
    """

    tensor: Name
    first: Step
    last: Step
    offset_bytes: Offset
    fetched: bool


class Verdict(StrEnum):
    """What is known of a plan's traffic."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"


class Plan(Frozen):
    """An answer: operators in their order, what lies where and when, and what is written back beside the outputs.

    ``extra_bytes`` is the traffic that is not compulsory, ``bound_bytes`` what no plan is below, by the argument
    ``bound_by``.
    """

    schema_version: int = SCHEMA_VERSION
    problem: str
    solver: str
    order: tuple[Name, ...]
    stays: tuple[Stay, ...]
    spilled: tuple[Name, ...] = ()
    extra_bytes: Annotated[int, Field(ge=0)]
    bound_bytes: Annotated[int, Field(ge=0)] = 0
    bound_by: str = "nothing"
    bounds_bytes: dict[str, int] = Field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Optimal where bound and traffic are the same integer."""
        return Verdict.OPTIMAL if self.bound_bytes == self.extra_bytes else Verdict.FEASIBLE

    @property
    def gap(self) -> float:
        """Relative distance of traffic and bound."""
        return (self.extra_bytes - self.bound_bytes) / self.extra_bytes if self.extra_bytes else 0.0


class Placed(Frozen):
    """A tensor that lies in fast memory all its life, and where."""

    tensor: Name
    offset_bytes: Offset


class MemoryMap(Frozen):
    """An answer where time is the objective: the program's order, each tensor in fast or in slow memory all its life.

    ``time_ns`` is the sum over operators (:meth:`Timing.operator_ns`), ``bound_ns`` what no map is below.
    """

    schema_version: int = SCHEMA_VERSION
    problem: str
    solver: str
    fast: tuple[Placed, ...]
    time_ns: Annotated[int, Field(ge=0)]
    bound_ns: Annotated[int, Field(ge=0)] = 0
    bound_by: str = "nothing"

    @property
    def verdict(self) -> Verdict:
        """Optimal where bound and time are the same integer."""
        return Verdict.OPTIMAL if self.bound_ns == self.time_ns else Verdict.FEASIBLE

    @property
    def gap(self) -> float:
        """Relative distance of time and bound."""
        return (self.time_ns - self.bound_ns) / self.time_ns if self.time_ns else 0.0
