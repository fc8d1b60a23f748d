"""Cover, order, availability and retention over a pool of priced steps, as one CP-SAT model.

Sets and data
    C          columns: a group of operators, what is resident when it starts (I_c), what it keeps (O_c), cost p_c
    S_c        tensors that column c stores: results of the group that it neither uses nor keeps
    E_c        tensors that it reads and others make
Variables
    x_c        column c is a step
    a_cd       d runs right after c: arcs of one circuit through a depot, with loops where x_c is 0
    u_c        place of c in the order
    y_dct      c finds tensor t where d stored it
Objective      min sum_c p_c x_c
Families
    cover          sum over columns with operator i of x_c >= 1
    order          circuit over a; a_cd = 1 -> u_d >= u_c + 1
    retention      a_cd only where O_c = I_d (the depot keeps nothing)
    availability   x_c -> for each t in E_c \\ I_c: some y_dct; y_dct -> x_d and u_d < u_c
    results        sum over columns that store a result of the graph of x_c >= 1

The bound of this model holds for the pool. A formulation with one binary per column and place (time-indexed) has places
times as many variables and was slower from ten columns on; pairs of columns with disjunctive order literals, in place
of u, propagate less and lost by a factor of three on the pools of the larger benchmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ortools.sat.python import cp_model

from formulations.subgraphs.sequence import NOTHING, Chosen, Group, Sequences

SCALE = 1000
"""Costs are rounded to thousandths of the file's unit of time."""


@dataclass(frozen=True)
class Column:
    """A priced step."""

    group: Group
    resident: frozenset[int]
    retained: frozenset[int]
    latency: float


def columns_of(sequences: Sequences, chosen: list[Chosen], most: int) -> list[Column]:
    """The steps of some sequences, those of the best first, at most so many."""
    found: dict[tuple[Group, frozenset[int], frozenset[int]], Column] = {}
    for sequence in sorted(chosen, key=lambda item: item.latency):
        resident = NOTHING
        for group, kept in zip(sequence.groups, sequence.retained, strict=True):
            for before, after in ((resident, kept), (NOTHING, NOTHING), (NOTHING, kept), (resident, NOTHING)):
                if len(found) >= most or not before <= sequences.external(group):
                    continue
                price = sequences.price(group, before, after)
                if price is not None:
                    found.setdefault((group, before, after), Column(group, before, after, price.latency))
            resident = kept
    return list(found.values())


class Master:
    """The model over a pool of columns."""

    def __init__(self, sequences: Sequences, columns: list[Column]) -> None:
        self.sequences, self.columns = sequences, columns
        self.model = cp_model.CpModel()
        self.used = [self.model.new_bool_var(f"x{c}") for c in range(len(columns))]
        self.place = [self.model.new_int_var(1, len(columns), f"u{c}") for c in range(len(columns))]
        self.arcs: dict[tuple[int, int], cp_model.IntVar] = {}
        self._cover()
        self._order()
        self._availability()
        self._results()
        costs = [round(column.latency * SCALE) for column in columns]
        self.model.minimize(sum(cost * x for cost, x in zip(costs, self.used, strict=True)))

    def _cover(self) -> None:
        """Every operator in at least one step."""
        for op in range(self.sequences.problem.count):
            self.model.add_bool_or([self.used[c] for c, column in enumerate(self.columns) if op in column.group])

    def _order(self) -> None:
        """One circuit through the depot; a step follows another only with what that one kept."""
        depot = len(self.columns)
        arcs: list[tuple[int, int, cp_model.LiteralT]] = []
        for c, column in enumerate(self.columns):
            arcs.append((c, c, ~self.used[c]))
            for d, following in enumerate(self.columns):
                if c != d and column.retained == following.resident:
                    arc = self.model.new_bool_var(f"a{c}_{d}")
                    self.arcs[c, d] = arc
                    arcs.append((c, d, arc))
                    self.model.add(self.place[d] >= self.place[c] + 1).only_enforce_if(arc)
            if not column.resident:
                first = self.arcs[depot, c] = self.model.new_bool_var(f"first{c}")
                arcs.append((depot, c, first))
            if not column.retained:
                last = self.arcs[c, depot] = self.model.new_bool_var(f"last{c}")
                arcs.append((c, depot, last))
        self.model.add_circuit(arcs)

    def _availability(self) -> None:
        """What a step reads was stored before it, or kept by the step right before it."""
        for c, column in enumerate(self.columns):
            for tensor in self.sequences.external(column.group) - column.resident:
                found = []
                for d, other in enumerate(self.columns):
                    if d != c and tensor in self._stored(other):
                        there = self.model.new_bool_var(f"y{d}_{c}_{tensor}")
                        self.model.add_implication(there, self.used[d])
                        self.model.add(self.place[d] + 1 <= self.place[c]).only_enforce_if(there)
                        found.append(there)
                self.model.add_bool_or([*found, ~self.used[c]])

    def _results(self) -> None:
        """What nobody reads is stored by some step."""
        for tensor in self.sequences.problem.results:
            self.model.add_bool_or([self.used[c] for c, k in enumerate(self.columns) if tensor in self._stored(k)])

    def _stored(self, column: Column) -> frozenset[int]:
        return self.sequences.sinks(column.group) - column.retained

    def hint(self, chosen: Chosen) -> None:
        """A complete hint: the steps of a sequence that is in the pool."""
        known = {(column.group, column.resident, column.retained): c for c, column in enumerate(self.columns)}
        steps = []
        resident = NOTHING
        for group, kept in zip(chosen.groups, chosen.retained, strict=True):
            step = known.get((group, resident, kept))
            if step is None or step in steps:
                return
            steps.append(step)
            resident = kept
        order = [len(self.columns), *steps, len(self.columns)]
        taken = set(pairwise(order))
        for c, used in enumerate(self.used):
            self.model.add_hint(used, c in steps)
            self.model.add_hint(self.place[c], steps.index(c) + 1 if c in steps else len(self.columns))
        for arc, literal in self.arcs.items():
            self.model.add_hint(literal, arc in taken)

    def read(self, solver: cp_model.CpSolver) -> list[Group]:
        """The groups of a solution, in order."""
        following = {c: d for (c, d), arc in self.arcs.items() if solver.boolean_value(arc)}
        depot = len(self.columns)
        groups = []
        step = following.get(depot, depot)
        while step != depot:
            groups.append(self.columns[step].group)
            step = following[step]
        return groups
