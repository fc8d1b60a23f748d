"""Order, addresses and spills of tile operations as one CP-SAT model, for each of the three sub-problems.

Sets and data
    v in V     operations with pipe, cycles c_v; v < w: an edge, or a path of edges
    b in B     buffers with size z_b, memory m(b), users U_b
    k          stays of a buffer, 0 .. |U_b| - 1; a stay begins with ALLOC (k = 0) or with a spill's way back
Variables
    s_v        start of v: its place in the order (sub-problems 1 and 2, where d_v = 1), or its time (3)
    x_uk       user u of b finds it in stay k
    p_bk       stay k is there
    S_bk, E_bk begin and end of the stay; a_bk its lowest address
Objective     1: peak;  2: sum over b and k > 0 of t_b p_bk;  3: makespan, with that sum bounded
Families
    order        s_v + d_v <= s_w for edges; nothing runs beside anything (1, 2), or beside another of its pipe (3)
    stays        sum_k x_uk = 1;  x_uk -> S_bk + back_bk <= s_u  and  s_u + d_u + out_bk <= E_bk
    spills       E_b(k-1) <= S_bk;  p_bk <= p_b(k-1);  p_bk <-> some x_uk: spills that nobody needs are left out
    pipes        in 3, each way out is an interval of MTE3 at the end of its stay, each way back one of MTE2 at its
                 begin; out costs nothing where main memory has the content, and yet it queues
    memory       stays of one memory do not overlap in address x (place or time), see below
    residency    in 1, sum of live L1 and UB sizes <= peak, one live buffer in each L0
    energy       in 3, for each pipe: least head + cycles with those of its spills + least tail <= makespan

Where all buffers of a memory have one size, stays that fit by their sum have addresses too (intervals are coloured
greedily), so there the memory family is a cumulative and the addresses come afterwards; double and triple buffering is
what that leaves. Elsewhere they are rectangles. A place in the order is enough for 1 and 2, since nothing there takes
time. In 3 steps of no length (a way out of a buffer that main memory has) would have no order among themselves: then
durations are ``M c + 1`` with M above the number of steps, which orders by makespan first and by length of chain next,
so ``makespan = floor(value / M)``.

The forms that lost are still here, by ``forms``; see :data:`FORMS` for what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from math import gcd
from typing import Literal

from ortools.sat.python import cp_model

from formulations.intracore.decisions import BACK, OPERATION, OUT, Step, duration_of
from formulations.intracore.reach import ancestors_of, heads_and_tails
from instances.intracore import COUNTED, SINGLE, Pipe, Place, TileTask

Problem = Literal[1, 2, 3]

FORMS = ("rectangles", "pairs", "places", "different")
"""Forms of two families. Memory: ``rectangles`` (no_overlap_2d and a cumulative), or ``pairs`` (for each two stays:
before, after, below or above). Order in 1 and 2: ``places`` (unit intervals that do not overlap), or ``different``
(all_different). The defaults are the first of each."""


@dataclass
class StayVars:
    """One possible stay of a buffer."""

    begin: cp_model.IntVar
    end: cp_model.IntVar
    address: cp_model.IntVar | None
    present: cp_model.IntVar | None
    users: dict[int, cp_model.IntVar] = field(default_factory=dict)
    span: cp_model.IntervalVar | None = None
    length: cp_model.IntVar | None = None


class TileModel:
    """The model of a task; ``ValueError`` where an edge ties a buffer to an operation that does not use it.

    Parameters
    ----------
    problem
        1: least residency; 2: least extra traffic; 3: least time.
    most_traffic
        Bound on the extra traffic (in 2 and 3); ``None``: any.
    most_spills
        Spills of one buffer; ``None``: as many as can be of use. A bound holds only for so many.
    single_l0
        Whether L0A, L0B and L0C hold one live buffer at a time in 2 and 3 too.
    memory_form, order_form
        See :data:`FORMS`.
    """

    def __init__(
        self,
        task: TileTask,
        problem: Problem,
        most_traffic: int | None = None,
        most_spills: int | None = None,
        single_l0: bool = False,
        memory_form: Literal["rectangles", "pairs", "slots"] = "rectangles",
        order_form: Literal["places", "different"] = "places",
    ) -> None:
        for buffer, span in task.spans.items():
            if span != frozenset(task.users[buffer]):
                raise ValueError(f"buffer {buffer} waits for an operation that does not use it")
        self.task, self.problem = task, problem
        self.most_traffic, self.most_spills = most_traffic, most_spills
        self.single = SINGLE if problem == 1 or single_l0 else ()
        self.memory_form, self.order_form = memory_form, order_form
        self.model = cp_model.CpModel()
        self.used = [one.id for one in task.buffers if task.users[one.id]]
        self.stay_count = {buffer: self._stay_count(buffer) for buffer in self.used}
        self.scale = self._scale()
        self.horizon = self._horizon()
        self.heads, self.tails = heads_and_tails(task, lambda node: self.length((OPERATION, node, 0)), problem == 3)
        self.bit, self.above = ancestors_of(task)
        self.starts: dict[int, cp_model.IntVar] = {}
        self.stays: dict[int, list[StayVars]] = {}
        self.makespan: cp_model.IntVar | None = None
        self.peak: cp_model.IntVar | None = None
        self.unit: dict[Place, int] = {}
        self.fits: dict[Place, int] = {}
        self.low_half: dict[Place, int] = {}  # buffers whose first stay lies in the lower half, where sizes are mixed
        self.follow: list[tuple[cp_model.IntVar, Callable[[dict[int, int]], int]]] = []
        self._order()
        self._stays()
        self._spills()
        if problem == 3:
            self._pipes()
        if problem == 1:
            self._residency()
        else:
            self._memory()
        self._singles()
        self._objective()

    # data

    def _stay_count(self, buffer: int) -> int:
        if self.problem == 1 or self.task.buffer[buffer].place in self.single:
            return 1
        count = len(self.task.users[buffer])
        if self.most_spills is not None:
            count = min(count, self.most_spills + 1)
        if self.most_traffic is not None:
            count = min(count, self.most_traffic // self.task.traffic_of_spill(buffer) + 1)
        return count

    def _scale(self) -> int:
        """M of the module's docstring; 1 where no step has length 0."""
        if self.problem < 3:
            return 1
        empty = any(op.cycles == 0 for op in self.task.operations)
        empty |= any(self.stay_count[buffer] > 1 for buffer in self.used if buffer in self.task.backed)
        return len(self.task.operations) + 2 * sum(self.stay_count.values()) + 1 if empty else 1

    def length(self, step: Step) -> int:
        """Duration of a step on the model's axis."""
        if self.problem < 3:
            return int(step[0] == OPERATION)
        cycles = duration_of(self.task, step)
        return cycles if self.scale == 1 else self.scale * cycles + 1

    def _horizon(self) -> int:
        total = sum(self.length((OPERATION, op.id, 0)) for op in self.task.operations)
        for buffer in self.used:
            both = self.length((OUT, buffer, 0)) + self.length((BACK, buffer, 1))
            total += (self.stay_count[buffer] - 1) * both
        return total

    # families

    def _order(self) -> None:
        """s_v + d_v <= s_w for edges v < w; head_v <= s_v <= horizon - tail_v - d_v; one at a time, or one per pipe."""
        task, model = self.task, self.model
        for op in task.operations:
            span = self.length((OPERATION, op.id, 0))
            latest = self.horizon - self.tails[op.id] - span
            self.starts[op.id] = model.new_int_var(self.heads[op.id], latest, f"s{op.id}")
        for node, before in task.waits.items():
            for other in before:
                model.add(self.starts[other] + self.length((OPERATION, other, 0)) <= self.starts[node])
        if self.problem == 3:
            return
        if self.order_form == "different":
            model.add_all_different(self.starts.values())
        else:
            model.add_no_overlap([model.new_fixed_size_interval_var(s, 1, "") for s in self.starts.values()])

    def _stays(self) -> None:
        """Each user in one stay, which lasts from its begin (and the way back) to the user's end (and the way out)."""
        model = self.model
        for buffer in self.used:
            users = self.task.users[buffer]
            listed = []
            for k in range(self.stay_count[buffer]):
                stay = StayVars(
                    model.new_int_var(0, self.horizon, f"S{buffer}_{k}"),
                    model.new_int_var(0, self.horizon, f"E{buffer}_{k}"),
                    None,
                    model.new_bool_var(f"p{buffer}_{k}") if k else None,
                )
                back = self.length((BACK, buffer, k)) if k else 0
                for user in users:
                    start = self.starts[user]
                    if self.stay_count[buffer] == 1:
                        model.add(stay.begin <= start)
                        model.add(start + self.length((OPERATION, user, 0)) <= stay.end)
                        continue
                    flag = stay.users[user] = model.new_bool_var(f"x{buffer}_{user}_{k}")
                    model.add(stay.begin + back <= start).only_enforce_if(flag)
                    model.add(start + self.length((OPERATION, user, 0)) <= stay.end).only_enforce_if(flag)
                listed.append(stay)
            self.stays[buffer] = listed

    def _spills(self) -> None:
        """Stays in turn, none without a user; what waits for another user is in no earlier stay than that one."""
        model = self.model
        for buffer, listed in self.stays.items():
            if len(listed) == 1:
                continue
            users = self.task.users[buffer]
            for user in users:
                model.add_exactly_one(stay.users[user] for stay in listed)
            for k, stay in enumerate(listed):
                model.add_bool_or([*stay.users.values(), *([] if stay.present is None else [~stay.present])])
                if stay.present is None:
                    continue
                for flag in stay.users.values():
                    model.add_implication(flag, stay.present)
                for unused in (stay.begin, stay.end):
                    model.add(unused == 0).only_enforce_if(~stay.present)
                before = listed[k - 1]
                if before.present is not None:
                    model.add_implication(stay.present, before.present)
                model.add(before.end <= stay.begin).only_enforce_if(stay.present)
                out = self.length((OUT, buffer, k - 1))
                if out:  # the way out comes after every use of the stay that it ends
                    for user, flag in before.users.items():
                        ends = self.starts[user] + self.length((OPERATION, user, 0)) + out
                        model.add(ends <= before.end).only_enforce_if(flag, stay.present)
            for one in users:
                for other in users:
                    if self.above[other] >> self.bit[one] & 1:
                        for k in range(len(listed)):
                            later = [stay.users[one] for stay in listed[k + 1 :]]
                            model.add(sum(later) + listed[k].users[other] <= 1)

    def _pipes(self) -> None:
        """One step at a time on each pipe, spills included; and the energy bound of the pipe."""
        task, model = self.task, self.model
        self.makespan = model.new_int_var(0, self.horizon, "makespan")
        queues: dict[Pipe, list[cp_model.IntervalVar]] = {}
        energy: dict[Pipe, cp_model.LinearExpr | int] = {}
        heads: dict[Pipe, int] = {}
        tails: dict[Pipe, int] = {}
        for op in task.operations:
            size = self.length((OPERATION, op.id, 0))
            start = self.starts[op.id]
            queues.setdefault(op.pipe, []).append(model.new_fixed_size_interval_var(start, size, f"i{op.id}"))
            energy[op.pipe] = energy.get(op.pipe, 0) + size
            heads[op.pipe] = min(heads.get(op.pipe, self.horizon), self.heads[op.id])
            tails[op.pipe] = min(tails.get(op.pipe, self.horizon), self.tails[op.id])
            model.add(start + size + self.tails[op.id] <= self.makespan)
        for buffer, listed in self.stays.items():
            users = task.users[buffer]
            head = min(self.heads[u] + self.length((OPERATION, u, 0)) for u in users)
            tail = min(self.tails[u] + self.length((OPERATION, u, 0)) for u in users)
            for k, stay in enumerate(listed[1:], start=1):
                assert stay.present is not None
                out, back = self.length((OUT, buffer, k - 1)), self.length((BACK, buffer, k))
                leaving = model.new_int_var(0, self.horizon, f"o{buffer}_{k}")
                model.add(leaving + out == listed[k - 1].end).only_enforce_if(stay.present)
                model.add(leaving == 0).only_enforce_if(~stay.present)
                self.follow.append((leaving, self._leaving(stay.present, listed[k - 1].end, out)))
                for pipe, start, size in ((Pipe.MTE3, leaving, out), (Pipe.MTE2, stay.begin, back)):
                    move = model.new_optional_fixed_size_interval_var(start, size, stay.present, f"m{buffer}_{k}")
                    queues.setdefault(pipe, []).append(move)
                    energy[pipe] = energy.get(pipe, 0) + size * stay.present
                    heads[pipe] = min(heads.get(pipe, self.horizon), head)
                    tails[pipe] = min(tails.get(pipe, self.horizon), tail)
        for pipe, queue in queues.items():
            model.add_no_overlap(queue)
            model.add(energy[pipe] + heads[pipe] + tails[pipe] <= self.makespan)

    @staticmethod
    def _leaving(present: cp_model.IntVar, end: cp_model.IntVar, out: int) -> Callable[[dict[int, int]], int]:
        return lambda known: known[end.index] - out if known[present.index] else 0

    def _span(self, stay: StayVars, name: str) -> cp_model.IntervalVar:
        if stay.span is None:
            length = stay.length = self.model.new_int_var(0, self.horizon, f"l{name}")
            begin, end = stay.begin, stay.end
            if stay.present is None:
                stay.span = self.model.new_interval_var(begin, length, end, name)
            else:
                stay.span = self.model.new_optional_interval_var(begin, length, end, stay.present, name)
                self.model.add(length == 0).only_enforce_if(~stay.present)
            self.follow.append((length, lambda known: known[end.index] - known[begin.index]))
        return stay.span

    def _lies(
        self, address: cp_model.IntVar, size: int, present: cp_model.IntVar | None, name: str
    ) -> cp_model.IntervalVar:
        if present is None:
            return self.model.new_fixed_size_interval_var(address, size, name)
        return self.model.new_optional_fixed_size_interval_var(address, size, present, name)

    def _memory(self) -> None:
        """No overlap of stays in address x (place or time); their sum stays within the capacity."""
        model = self.model
        for place, capacity in self.task.capacity.items():
            members = [b for b in self.used if self.task.buffer[b].place is place]
            if not members or place in self.single:
                continue
            unit = self.unit[place] = gcd(*(self.task.buffer[b].size for b in members))
            fits = self.fits[place] = capacity // unit
            spans, sizes, low, owners = [], [], [], []
            mixed = self.memory_form == "slots" or any(self.task.buffer[b].size != unit for b in members)
            for buffer in members:
                size = self.task.buffer[buffer].size // unit
                for k, stay in enumerate(self.stays[buffer]):
                    spans.append(self._span(stay, f"t{buffer}_{k}"))
                    sizes.append(size)
                    if mixed:
                        stay.address = model.new_int_var(0, fits - size, f"a{buffer}_{k}")
                        if stay.present is not None:
                            model.add(stay.address == 0).only_enforce_if(~stay.present)
                        low.append(self._lies(stay.address, size, stay.present, f"y{buffer}_{k}"))
                        owners.append((buffer, stay))
            model.add_cumulative(spans, sizes, fits)
            if not mixed:
                continue
            largest = self.low_half[place] = max(members, key=lambda b: (self.task.buffer[b].size, -b))
            first = self.stays[largest][0].address
            assert first is not None
            model.add(2 * first <= fits - self.task.buffer[largest].size // unit)  # or the memory is turned over
            if self.memory_form == "rectangles":
                model.add_no_overlap_2d(spans, low)
            else:
                self._apart(owners, unit)

    def _apart(self, stays: list[tuple[int, StayVars]], unit: int) -> None:
        """For each two stays of a memory: E_i <= S_j, E_j <= S_i, a_i + z_i <= a_j, or a_j + z_j <= a_i."""
        model = self.model
        for (b, one), (c, other) in combinations(stays, 2):
            if b == c:
                continue
            z = (self.task.buffer[b].size // unit, self.task.buffer[c].size // unit)
            assert one.address is not None and other.address is not None
            pairs = (
                (one.end, 0, other.begin),
                (other.end, 0, one.begin),
                (one.address, z[0], other.address),
                (other.address, z[1], one.address),
            )
            flags = []
            for lower, gap, upper in pairs:
                flag = model.new_bool_var("")
                model.add(lower + gap <= upper).only_enforce_if(flag)
                model.add(lower + gap > upper).only_enforce_if(~flag)
                self.follow.append((flag, self._before(lower, gap, upper)))
                flags.append(flag)
            absent = [~stay.present for stay in (one, other) if stay.present is not None]
            model.add_bool_or([*flags, *absent])

    @staticmethod
    def _before(lower: cp_model.IntVar, gap: int, upper: cp_model.IntVar) -> Callable[[dict[int, int]], int]:
        return lambda known: int(known[lower.index] + gap <= known[upper.index])

    def _residency(self) -> None:
        """Sum of sizes of live buffers of L1 and UB <= peak."""
        counted = [one for one in self.task.buffers if one.place in COUNTED]
        least = max((one.size for one in counted), default=0)
        self.peak = self.model.new_int_var(least, max(least, sum(one.size for one in counted)), "peak")
        held = [one for one in counted if self.task.users[one.id]]
        spans = [self._span(self.stays[one.id][0], f"t{one.id}") for one in held]
        self.model.add_cumulative(spans, [one.size for one in held], self.peak)

    def _singles(self) -> None:
        """Lives in one L0 memory, from ALLOC to FREE, do not overlap where it holds one buffer at a time."""
        for place in self.single:
            members = [b for b in self.used if self.task.buffer[b].place is place]
            self.model.add_no_overlap([self._span(self.stays[b][0], f"t{b}") for b in members])

    def _traffic(self) -> cp_model.LinearExprT:
        terms = [
            (stay.present, self.task.traffic_of_spill(buffer))
            for buffer, listed in self.stays.items()
            for stay in listed
            if stay.present is not None
        ]
        return cp_model.LinearExpr.weighted_sum([flag for flag, _ in terms], [price for _, price in terms])

    def _objective(self) -> None:
        traffic = self._traffic()
        if self.most_traffic is not None:
            self.model.add(traffic <= self.most_traffic)
        if self.peak is not None:
            self.model.minimize(self.peak)
        elif self.makespan is not None:
            self.model.minimize(self.makespan)
        else:
            self.model.minimize(traffic)
