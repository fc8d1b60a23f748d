"""Tensor replacement with intervals, for CP-SAT: addresses decided together with order and evictions.

Index sets: operators o, tensors t with readers c in C(t), stays r of a tensor. Variables: step s_o; for each stay its
first and last step f_tr, l_tr, presence p_tr and address a_tr; for each reader which stay it uses, u_cr.

    all different s_o,  s_o < s_o'                                 where o makes what o' reads
    sum_r u_cr = 1,  u_cr => p_tr, f_tr <= s_c <= l_tr             every reader finds its tensor
    f_t0 = s_maker                                                 the first stay begins where the tensor is made
    l_tr < f_t(r+1)                                                stays in turn (breaks their symmetry)
    no overlap of [f, l + 1) x [a, a + room);  cumulative of room  the scratchpad
    min  sum_t size_t (sum_(r>0) p_tr + [inner] p_t1)              ways back, and one write before the first of them

A tensor that one operator alone touches is a rectangle one step long. ``bound`` may come from elsewhere: alone, the
model proves little where orders are many, since its relaxation leaves capacity to the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from ortools.sat.python import cp_model

from formulations.replacement.facts import Facts, members
from formulations.replacement.plan import Lying
from instances.replacement import Part, Plan

Value = Callable[[cp_model.LinearExprT], int]


@dataclass
class _StayVars:
    """One possible stay of a tensor."""

    tensor: int
    fetched: bool
    first: cp_model.IntVar
    last: cp_model.IntVar
    present: cp_model.IntVar | None
    address: cp_model.IntVar
    users: dict[int, cp_model.IntVar] = field(default_factory=dict)


class IntervalModel:
    """The model of a problem; ``fixed_order`` keeps the program's order."""

    def __init__(self, facts: Facts, bound_bytes: int = 0, fixed_order: bool = False) -> None:
        self.facts = facts
        self.model = cp_model.CpModel()
        self._unit = facts.problem.unit_bytes
        self._capacity = facts.problem.capacity_bytes // self._unit
        self.steps = self._order(fixed_order)
        self.stays: list[list[_StayVars]] = [self._stays_of(t) for t in range(len(facts.names))]
        self._scratchpad()
        self.extra = self._objective(bound_bytes)

    def _order(self, fixed: bool) -> list[cp_model.IntVar]:
        f, model = self.facts, self.model
        steps = []
        for i in range(f.count):
            low, high = f.ancestors[i].bit_count(), f.count - 1 - f.descendants[i].bit_count()
            steps.append(model.new_int_var(i if fixed else low, i if fixed else high, f"s{i}"))
        if not fixed:
            model.add_all_different(steps)
            for i in range(f.count):
                for before in members(f.before[i]):
                    model.add(steps[before] + 1 <= steps[i])
        return steps

    def _stays_of(self, t: int) -> list[_StayVars]:
        f, model = self.facts, self.model
        room = f.room[t] // self._unit
        readers = list(members(f.readers[t]))
        maker = f.maker[t]
        if not f.shared >> t & 1:
            step = self.steps[maker if maker >= 0 else readers[0]]
            return [_StayVars(t, maker < 0, step, step, None, self._address(room, f"a{t}"))]
        count = len(readers) + (maker >= 0)
        found = []
        for r in range(count):
            first = self.steps[maker] if maker >= 0 and not r else model.new_int_var(0, f.count - 1, f"f{t},{r}")
            found.append(
                _StayVars(
                    t,
                    maker < 0 or r > 0,
                    first,
                    model.new_int_var(0, f.count - 1, f"l{t},{r}"),
                    model.new_bool_var(f"p{t},{r}") if r else None,
                    self._address(room, f"a{t},{r}"),
                )
            )
        for c in readers:
            for r, stay in enumerate(found):
                used = stay.users[c] = model.new_bool_var(f"u{t},{c},{r}")
                model.add(stay.first <= self.steps[c]).only_enforce_if(used)
                model.add(self.steps[c] <= stay.last).only_enforce_if(used)
                if stay.present is not None:
                    model.add_implication(used, stay.present)
            model.add_exactly_one(stay.users[c] for stay in found)
        for one, other in pairwise(found):
            if other.present is None:
                continue
            model.add(one.last + 1 <= other.first).only_enforce_if(other.present)
            if one.present is not None:
                model.add_implication(other.present, one.present)
        for stay in found:
            model.add(stay.first <= stay.last)
        return found

    def _address(self, room: int, name: str) -> cp_model.IntVar:
        return self.model.new_int_var(0, self._capacity - room, name)

    def _scratchpad(self) -> None:
        model, times, places, demands = self.model, [], [], []
        for listed in self.stays:
            for stay in listed:
                room = self.facts.room[stay.tensor] // self._unit
                length = model.new_int_var(1, self.facts.count, "")
                end = model.new_int_var(1, self.facts.count, "")
                model.add(end == stay.last + 1)
                if stay.present is None:
                    times.append(model.new_interval_var(stay.first, length, end, ""))
                    places.append(model.new_fixed_size_interval_var(stay.address, room, ""))
                else:
                    times.append(model.new_optional_interval_var(stay.first, length, end, stay.present, ""))
                    places.append(model.new_optional_fixed_size_interval_var(stay.address, room, stay.present, ""))
                demands.append(room)
        model.add_no_overlap_2d(times, places)
        model.add_cumulative(times, demands, self._capacity)

    def _objective(self, bound_bytes: int) -> cp_model.LinearExprT:
        f = self.facts
        terms = []
        for t, listed in enumerate(self.stays):
            inner = f.problem.tensors[t].part is Part.INNER
            for r, stay in enumerate(listed):
                if stay.present is not None:
                    terms.append(f.size[t] * (2 if inner and r == 1 else 1) * stay.present)
        extra = self.model.new_int_var(bound_bytes, max(bound_bytes, 2 * sum(f.size) * f.count), "extra")
        self.model.add(extra == sum(terms))
        self.model.minimize(extra)
        return extra

    def hint(self, plan: Plan) -> None:
        """Begin with a plan; every variable gets a value."""
        f, model = self.facts, self.model
        step = {name: s for s, name in enumerate(plan.order)}
        at = [step[operator.name] for operator in f.problem.operators]
        for i, var in enumerate(self.steps):
            model.add_hint(var, at[i])
        lying: dict[str, list[tuple[int, int, int]]] = {name: [] for name in f.names}
        for one in sorted(plan.stays, key=lambda stay: stay.first):
            lying[one.tensor].append((one.first, one.last, one.offset_bytes // self._unit))
        for t, listed in enumerate(self.stays):
            given = lying[f.names[t]]
            for r, stay in enumerate(listed):
                first, last, place = given[min(r, len(given) - 1)]
                model.add_hint(stay.address, place)
                if not f.shared >> t & 1:
                    continue
                if r or f.maker[t] < 0:
                    model.add_hint(stay.first, first)
                model.add_hint(stay.last, last)
                if stay.present is not None:
                    model.add_hint(stay.present, r < len(given))
                for c, used in stay.users.items():
                    model.add_hint(used, r < len(given) and first <= at[c] <= last)

    def read_back(self, value: Value) -> tuple[list[int], list[Lying], list[int]]:
        """Order, stays and addresses (bytes) of a solution."""
        f = self.facts
        order = sorted(range(f.count), key=lambda i: value(self.steps[i]))
        found: list[tuple[Lying, int]] = []
        for t, listed in enumerate(self.stays):
            for stay in listed:
                if stay.present is not None and not value(stay.present):
                    continue
                used = [value(self.steps[c]) for c, flag in stay.users.items() if value(flag)]
                first = value(stay.first)
                if stay.fetched and used:
                    first = min(used)
                last = max([first, *used])
                if stay.fetched and stay.users and not used:
                    continue
                found.append((Lying(t, first, last, stay.fetched), value(stay.address) * self._unit))
        found.sort(key=lambda item: (item[0].first, item[0].tensor))
        return order, [one for one, _ in found], [at for _, at in found]
