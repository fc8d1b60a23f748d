"""Which tensors lie in fast memory for least time, the program's order given: intervals with addresses, for CP-SAT.

For tensors t that gain by it: p_t in fast memory, a_t its address; for operators o their time T_o.

    T_o >= compute_o,   T_o >= sum_t slow_ot - sum_t (slow_ot - fast_ot) p_t
    no overlap of life_t x [a_t, a_t + room_t) where p_t;   at each step, room of what is fast <= capacity
    min sum_o T_o

Steps at which the same tensors live give the same inequality; only those that no other includes are stated.
"""

from __future__ import annotations

from ortools.sat.python import cp_model

from instances.memory_time import Timing
from instances.replacement import MemoryMap, Placed, Problem


class MappingModel:
    """The model of a problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.timing = problem, Timing(problem)
        self.model = cp_model.CpModel()
        capacity = problem.capacity_bytes // problem.unit_bytes
        self._room = {t.name: problem.room(t.name) // problem.unit_bytes for t in problem.tensors}
        self.life = {t.name: self.timing.life(t.name) for t in problem.tensors}
        self.gaining = [
            t.name for t in problem.tensors if self.timing.gain_ns(t.name) > 0 and self._room[t.name] <= capacity
        ]
        self.fast = {name: self.model.new_bool_var(f"p{name}") for name in self.gaining}
        self.address = {
            name: self.model.new_int_var(0, capacity - self._room[name], f"a{name}") for name in self.gaining
        }
        self._places(capacity)
        self.total = self._time()

    def _places(self, capacity: int) -> None:
        model = self.model
        times, places = [], []
        for name in self.gaining:
            first, last = self.life[name]
            times.append(model.new_optional_fixed_size_interval_var(first, last + 1 - first, self.fast[name], ""))
            places.append(
                model.new_optional_fixed_size_interval_var(self.address[name], self._room[name], self.fast[name], "")
            )
        model.add_no_overlap_2d(times, places)
        live = [
            frozenset(name for name in self.gaining if self.life[name][0] <= step <= self.life[name][1])
            for step in range(len(self.problem.operators))
        ]
        for names in set(live):
            if not any(names < other for other in live):
                model.add(sum(self._room[name] * self.fast[name] for name in names) <= capacity)

    def _time(self) -> cp_model.LinearExprT:
        total = []
        for i, operator in enumerate(self.problem.operators):
            operands = self.timing.operands(i)
            slow = sum(self.timing.moved_ns(i, name, False) for name in operands)
            least = self.timing.operator_ns(i, self.fast)
            time = self.model.new_int_var(least, max(slow, operator.compute_ns), f"T{i}")
            saved = sum(
                (self.timing.moved_ns(i, name, False) - self.timing.moved_ns(i, name, True)) * self.fast[name]
                for name in operands
                if name in self.fast
            )
            self.model.add(time >= slow - saved)
            total.append(time)
        self.model.minimize(sum(total))
        return sum(total)

    def hint(self, answer: MemoryMap) -> None:
        """Begin with a map."""
        at = {one.tensor: one.offset_bytes // self.problem.unit_bytes for one in answer.fast}
        for name, flag in self.fast.items():
            self.model.add_hint(flag, name in at)
            self.model.add_hint(self.address[name], at.get(name, 0))

    def read_back(self, solver: cp_model.CpSolver) -> tuple[Placed, ...]:
        """What a solution has in fast memory."""
        return tuple(
            Placed(tensor=name, offset_bytes=solver.value(self.address[name]) * self.problem.unit_bytes)
            for name, flag in self.fast.items()
            if solver.value(flag)
        )
