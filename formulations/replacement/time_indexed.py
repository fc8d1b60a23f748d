"""Tensor replacement over steps, as a mixed-integer programme through PuLP: schedule, presence, addresses.

Variables, for operators o, shared tensors t and steps s: x_os runs then, within the window that ancestors and
descendants leave; y_ts lies in the scratchpad then; f_ts is fetched for it; w_t is written back.

    sum_s x_os = 1,  sum_o x_os = 1                                     one operator per step
    sum_(s' <= s) x_o's'  <=  sum_(s' < s) x_os'                        o before o'
    x_os <= y_ts                                                        operands and results are there
    y_ts <= y_t(s-1) + f_ts + x_(maker t)s                              nothing comes from nowhere
    y_ts <= sum_(s' <= s) x_(maker t)s',  f_ts <= w_t (inner t)         nothing comes before it is made or written back
    sum_t room_t y_ts + sum_o own_o x_os <= capacity                    own: what o alone touches
    min  sum_t size_t (sum_s f_ts + w_t) - what every plan fetches

With addresses (a_ts, and who lies below whom, b_tus): a_ts = a_t(s-1) while t stays, and a_ts + room_t <= a_us or the
other way about while both are there. They cost a binary for each pair of tensors and step, and are left out at first:
what lives at one time can nearly always be packed, and where it can the answer without them is optimal with them.

Source: Li, Gupta, Malik, arXiv 2311.18246, for schedule steps, presence and address order; windows, the precedence
form and leaving addresses to a second round are ours.
"""

from __future__ import annotations

import pulp

from formulations.replacement.facts import Facts, members
from instances.replacement import Part


class TimeIndexed:
    """The programme of a problem."""

    def __init__(self, facts: Facts, bound_bytes: int = 0, addresses: bool = False) -> None:
        self.facts = facts
        self.programme = pulp.LpProblem("replacement", pulp.LpMinimize)
        self.runs = self._runs()
        self.there: dict[tuple[int, int], pulp.LpVariable] = {}
        self.fetched: dict[tuple[int, int], pulp.LpVariable] = {}
        self.written: dict[int, pulp.LpVariable] = {}
        self.addresses: dict[tuple[int, int], pulp.LpVariable] = {}
        self._order()
        for t in members(facts.shared):
            self._presence(t)
        self._capacity()
        self._objective(bound_bytes)
        if addresses:
            self._places()

    def _runs(self) -> dict[tuple[int, int], pulp.LpVariable]:
        f = self.facts
        return {
            (i, s): self.programme.add_variable(f"x_{i}_{s}", cat="Binary")
            for i in range(f.count)
            for s in range(f.ancestors[i].bit_count(), f.count - f.descendants[i].bit_count())
        }

    def _run(self, i: int, s: int) -> pulp.LpAffineExpression:
        return pulp.lpSum([self.runs[i, s]] if (i, s) in self.runs else [])

    def _until(self, i: int, s: int) -> pulp.LpAffineExpression:
        return pulp.lpSum(self.runs[i, at] for at in range(s + 1) if (i, at) in self.runs)

    def _order(self) -> None:
        f, add = self.facts, self.programme.addConstraint
        for i in range(f.count):
            add(pulp.lpSum(self._run(i, s) for s in range(f.count)) == 1)
        for s in range(f.count):
            add(pulp.lpSum(self._run(i, s) for i in range(f.count)) == 1)
        for i in range(f.count):
            for before in members(f.before[i]):
                for s in range(f.count):
                    if (i, s) in self.runs:
                        add(self._until(i, s) <= self._until(before, s - 1))

    def _presence(self, t: int) -> None:
        f, add = self.facts, self.programme.addConstraint
        maker = f.maker[t]
        inner = f.problem.tensors[t].part is Part.INNER
        if inner:
            self.written[t] = self.programme.add_variable(f"w_{t}", cat="Binary")
        users = f.readers[t] | (1 << maker if maker >= 0 else 0)
        for s in range(f.count):
            y = self.there[t, s] = self.programme.add_variable(f"y_{t}_{s}", cat="Binary")
            fetch = self.fetched[t, s] = self.programme.add_variable(f"f_{t}_{s}", cat="Binary")
            before = self.there[t, s - 1] if s else 0
            add(y <= before + fetch + (self._run(maker, s) if maker >= 0 else 0))
            if maker >= 0:
                add(y <= self._until(maker, s))
            if inner:
                add(fetch <= self.written[t])
            for i in members(users):
                if (i, s) in self.runs:
                    add(self.runs[i, s] <= y)

    def _own(self, i: int) -> int:
        return self.facts.bytes_of(self.facts.touched[i] & ~self.facts.shared)

    def _capacity(self) -> None:
        f = self.facts
        unit = f.problem.unit_bytes
        for s in range(f.count):
            held = pulp.lpSum(f.room[t] // unit * self.there[t, s] for t in members(f.shared))
            own = pulp.lpSum(self._own(i) // unit * self.runs[i, s] for i in range(f.count) if (i, s) in self.runs)
            self.programme.addConstraint(held + own <= f.problem.capacity_bytes // unit)

    def _objective(self, bound_bytes: int) -> None:
        f = self.facts
        cost = pulp.lpSum(f.size[t] * fetch for (t, _), fetch in self.fetched.items())
        cost += pulp.lpSum(f.size[t] * flag for t, flag in self.written.items())
        self.offset = sum(f.size[t] for t in members(f.outside & f.shared))
        self.programme.setObjective(cost)
        if bound_bytes:
            self.programme.addConstraint(cost >= bound_bytes + self.offset)

    def _places(self) -> None:
        """Addresses in units; what one operator alone touches is taken together, as one piece."""
        f, add = self.facts, self.programme.addConstraint
        unit = f.problem.unit_bytes
        capacity = f.problem.capacity_bytes // unit
        shared = list(members(f.shared))
        for s in range(f.count):
            for t in shared:
                room = f.room[t] // unit
                a = self.addresses[t, s] = self.programme.add_variable(f"a_{t}_{s}", 0, capacity - room)
                if s:  # what stays does not move; what was fetched anew may
                    free = capacity * (2 - self.there[t, s] - self.there[t, s - 1] + self.fetched[t, s])
                    add(a - self.addresses[t, s - 1] <= free)
                    add(self.addresses[t, s - 1] - a <= free)
            for n, t in enumerate(shared):
                for u in shared[n + 1 :]:
                    below = self.programme.add_variable(f"b_{t}_{u}_{s}", cat="Binary")
                    apart = capacity * (2 - self.there[t, s] - self.there[u, s])
                    one, other = self.addresses[t, s], self.addresses[u, s]
                    add(one + f.room[t] // unit <= other + capacity * (1 - below) + apart)
                    add(other + f.room[u] // unit <= one + capacity * below + apart)

    def order(self) -> list[int]:
        """Operators as a solution runs them."""
        at = {s: i for (i, s), flag in self.runs.items() if (flag.value() or 0) > 0.5}
        return [at[s] for s in range(self.facts.count)]

    def evicted(self) -> list[int]:
        """What a solution fetches anew for each step, as if evicted just before: it lies nowhere since its last use."""
        sets = [0] * self.facts.count
        for (t, s), fetch in self.fetched.items():
            if (fetch.value() or 0) > 0.5:
                sets[s] |= 1 << t
        return sets
