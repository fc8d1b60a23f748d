"""What the joint model decides: fusion, tiling, cores, L2 addresses, spills, prefetches and times, in CP-SAT.

Index sets: operators ``o``, tensors ``t``, candidates (fusion groups) ``g``, implementations ``i`` of a group.
``r(g)`` is the first operator of a group; groups with the same first operator exclude one another, so kernel
intervals belong to operators: operator ``o`` carries the kernel whose first operator it is, if there is one.

==================== ===================================================================== ================
variable             meaning                                                               unit
==================== ===================================================================== ================
``y[g]``             group g is a kernel                                                   bool
``x[g,i]``           ... run by implementation i                                           bool
``S[o], E[o]``       start and end of the kernel that holds o                              ns
``d[g]``             duration of kernel g, 0 if absent                                     ns
``H[o], L[o]``       start and length of the HBM phase of the kernel carried by o          ns
``stream[g,t]``      kernel g reads t from HBM in its phase                                bool
``near[g,t]``        ... from L2, where its producer left it                               bool
``far[g,t]``         ... from L2, where a prefetch or fill brought it                      bool
``keep[t]``          t stays in L2 from its producer on                                    bool
``back[g,t]``        producer kernel g writes t to HBM in its phase                        bool
``spill[t]``         t is written to HBM by an explicit move                               bool
``fill[t]``          t is brought into L2 by an explicit move (a prefetch for sources)     bool
``C``                end of the last activity                                              ns
==================== ===================================================================== ================

Times per operator keep the number of intervals at the number of operators, whatever the number of candidates. The
other form tried gives each implementation an optional interval of its own with a constant demand, on the same times:
seven times the intervals, and over two instances (decode layers of Llama-3-8B and of Qwen3-32B on 8 chips, 910B2) and
two seeds of 20 s it never found a better schedule and found a worse one three times in four, by up to 0.3 %.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from ortools.sat.python import cp_model

from formulations import follow
from formulations.facts import Facts
from instances.instance import Instance
from instances.kernels import KernelKind

DECIDING = ("cores", "l2_rate", "hbm_channel", "link", "l2_capacity", "addresses")
"""Constraint families on shared resources. Without one of them the optimum is a lower bound of the full model's."""

Linear = cp_model.LinearExpr | int
"""A variable, a linear expression or a constant."""


class JointCore:
    """Variables and deciding constraints of one instance.

    Parameters
    ----------
    instance
        The question.
    horizon_ns
        Latest end considered; the latency of any known schedule.
    left_out
        Names of families out of :data:`DECIDING` that are not built.
    routed
        If given, the model is condensed, and its optimum a lower bound. Made tensors stay in L2 without taking room
        there, nor do workspaces; only these sources and outputs cross the channel, others are free.
    """

    def __init__(
        self,
        instance: Instance,
        horizon_ns: int,
        left_out: frozenset[str],
        routed: frozenset[str] | None = None,
    ) -> None:
        self.instance = instance
        self.facts = Facts(instance)
        self.horizon = horizon_ns
        self.condensed = routed is not None
        self._routed = frozenset(tensor.name for tensor in instance.graph.tensors) if routed is None else routed
        self.model = cp_model.CpModel()
        self.derived: list[tuple[cp_model.IntVar, Callable[[follow.Known], int]]] = []
        self.block_end: dict[tuple[str, str], cp_model.IntVar] = {}
        self.block_flag: dict[tuple[str, str], cp_model.IntVar] = {}
        self.address: dict[tuple[str, str], cp_model.IntVar] = {}
        self._choose_groups()
        self._place_in_time()
        self._route_tensors()
        self._size_phases()
        self._size_kernels()
        self._order_kernels()
        self._time_moves()
        for family, build in (
            ("cores", self._share_cores),
            ("l2_rate", self._share_l2_rate),
            ("hbm_channel", self._share_channel),
            ("link", self._share_link),
            ("l2_capacity", self._fit_l2),
            ("addresses", self._place_addresses),
        ):
            if family not in left_out:
                build()

    def routed_reads(self, g: int) -> list[str]:
        """Tensors of which it is decided where candidate ``g`` reads them from."""
        made = self.facts.graph.producer
        return [
            t for t in self.instance.candidates[g].reads if t in self._routed and not (self.condensed and t in made)
        ]

    def routed_writes(self, g: int) -> list[str]:
        """Tensors of which it is decided where candidate ``g`` writes them to."""
        return [t for t in self.instance.candidates[g].writes if t in self._routed]

    # ---------------------------------------------------------------- variables

    def _bool(self, name: str) -> cp_model.IntVar:
        return self.model.new_bool_var(name)

    def _time(self, name: str) -> cp_model.IntVar:
        return self.model.new_int_var(0, self.horizon, name)

    def _follow(self, variable: cp_model.IntVar, rule: Callable[[follow.Known], int]) -> cp_model.IntVar:
        """Remember how an auxiliary variable follows from earlier ones, so that hints are complete."""
        self.derived.append((variable, rule))
        return variable

    def _choose_groups(self) -> None:
        """Exact cover: sum of y[g] over the groups that hold o is 1; sum over i of x[g,i] is y[g]."""
        self.y = [self._bool(f"y[{g}]") for g in range(len(self.instance.candidates))]
        self.x: dict[tuple[int, int], cp_model.IntVar] = {}
        for g, candidate in enumerate(self.instance.candidates):
            ways = range(len(self.instance.implementations(candidate)))
            if len(ways) == 1:
                self.x[g, 0] = self.y[g]
                continue
            for i in ways:
                self.x[g, i] = self._bool(f"x[{g},{i}]")
            self.model.add(sum(self.x[g, i] for i in ways) == self.y[g])
        for holders in self.instance.candidates_of.values():
            self.model.add_exactly_one(self.y[g] for g in holders)

    def _place_in_time(self) -> None:
        """Times of the kernel that holds each operator: E[o] = S[o] + sum of d[g]; equal within a group."""
        self.start: dict[str, cp_model.IntVar] = {}
        self.end: dict[str, cp_model.IntVar] = {}
        self.latency = self._time("C")
        self.duration = [self._time(f"d[{g}]") for g in range(len(self.y))]
        for name, holders in self.instance.candidates_of.items():
            self.start[name] = self._time(f"S[{name}]")
            self.end[name] = self._time(f"E[{name}]")
            self.model.add(self.end[name] == self.start[name] + sum(self.duration[g] for g in holders))
            self.model.add(self.end[name] <= self.latency)
        for g, candidate in enumerate(self.instance.candidates):
            first, *others = candidate.operators
            for other in others:
                self.model.add(self.start[other] == self.start[first]).only_enforce_if(self.y[g])

    def _route_tensors(self) -> None:
        """Where each kernel gets each outside tensor from, and what becomes of each tensor made.

        Sources: ``stream + far = y``. Made tensors: ``stream + near + far = y``; near needs ``keep``, far needs
        ``fill``, stream needs the tensor in HBM (``back`` or ``spill``). A tensor some kernel hands on is kept or
        written back; an output is written back or spilled. Condensed, made tensors are read where they are.
        """
        facts, model = self.facts, self.model
        self.stream: dict[tuple[int, str], cp_model.IntVar] = {}
        self.near: dict[tuple[int, str], cp_model.IntVar] = {}
        self.far: dict[tuple[int, str], cp_model.IntVar] = {}
        self.back: dict[tuple[int, str], cp_model.IntVar] = {}
        self.keep: dict[str, cp_model.IntVar] = {}
        self.spill: dict[str, cp_model.IntVar] = {}
        self.fill: dict[str, cp_model.IntVar] = {}
        for t in facts.made:
            if self.condensed:
                if t in self._routed and facts.can_stay(t):
                    self.spill[t] = self._bool(f"spill[{t}]")
            elif facts.can_stay(t):
                self.keep[t] = self._bool(f"keep[{t}]")
                self.spill[t] = self._bool(f"spill[{t}]")
                model.add_implication(self.spill[t], self.keep[t])
                if self.instance.graph.consumers[t]:
                    self.fill[t] = self._bool(f"fill[{t}]")
        for t in sorted(facts.prefetchable & self._routed):
            self.fill[t] = self._bool(f"fill[{t}]")
        readers: dict[str, list[int]] = {}
        writers: dict[str, list[int]] = {}
        for g in range(len(self.y)):
            for t in self.routed_reads(g):
                readers.setdefault(t, []).append(g)
                ways = []
                self.stream[g, t] = self._bool(f"stream[{g},{t}]")
                ways.append(self.stream[g, t])
                if t in self.keep:
                    self.near[g, t] = self._bool(f"near[{g},{t}]")
                    model.add_implication(self.near[g, t], self.keep[t])
                    ways.append(self.near[g, t])
                if t in self.fill:
                    self.far[g, t] = self._bool(f"far[{g},{t}]")
                    model.add_implication(self.far[g, t], self.fill[t])
                    ways.append(self.far[g, t])
                model.add(sum(ways) == self.y[g])
            for t in self.routed_writes(g):
                writers.setdefault(t, []).append(g)
                self.back[g, t] = self._bool(f"back[{g},{t}]")
                model.add_implication(self.back[g, t], self.y[g])
        self.readers = readers
        for t in facts.made:
            if t not in self._routed:
                continue
            handed_on = sum(self.y[g] for g in writers.get(t, []))
            written = sum(self.back[g, t] for g in writers.get(t, []))
            keep, spill = self.keep.get(t, 0), self.spill.get(t, 0)
            if not self.condensed:
                model.add(keep + written >= handed_on)
            if t in self.keep:
                model.add(keep <= handed_on)
            if facts.is_output(t):
                model.add(written + spill == 1)
            else:
                model.add(written + spill <= 1)
            for g in readers.get(t, []):
                model.add(written + spill >= self.stream[g, t])
            if t in self.fill:
                model.add(written + spill >= self.fill[t])
        for t, fill in self.fill.items():
            model.add(sum(self.far[g, t] for g in readers.get(t, [])) >= fill)

    def _size_phases(self) -> None:
        """L[o] = channel time of what the kernel carried by o streams and writes back; phase within the body."""
        facts, model = self.facts, self.model
        terms: dict[str, list[tuple[cp_model.IntVar, int]]] = {name: [] for name in facts.order}
        self.group_phase: list[Linear] = []
        for g, candidate in enumerate(self.instance.candidates):
            parts = [(self.stream[g, t], facts.read_ns(candidate, t)) for t in self.routed_reads(g)]
            parts += [(self.back[g, t], facts.write_ns(t)) for t in self.routed_writes(g)]
            self.group_phase.append(sum(flag * ns for flag, ns in parts))
            terms[candidate.operators[0]] += parts
        self.phase_start: dict[str, cp_model.IntVar] = {}
        self.phase_length: dict[str, cp_model.IntVar] = {}
        self.phase_end: dict[str, cp_model.IntVar] = {}
        self.has_phase: dict[str, cp_model.IntVar] = {}
        for name in facts.order:
            self.phase_start[name] = self._time(f"H[{name}]")
            self.phase_length[name] = self._time(f"L[{name}]")
            self.has_phase[name] = self._bool(f"phase[{name}]")
            end = self.phase_end[name] = self._time(f"P[{name}]")
            flags = [flag for flag, _ in terms[name]]
            model.add_max_equality(self.has_phase[name], flags or [model.new_constant(0)])
            self._follow(self.has_phase[name], follow.any_of(flags))
            self._follow(self.phase_start[name], follow.itself_if(self.phase_start[name], self.has_phase[name]))
            model.add(self.phase_length[name] == sum(flag * ns for flag, ns in terms[name]))
            self._follow(self.phase_length[name], follow.weighted_of(terms[name]))
            model.add(end == self.phase_start[name] + self.phase_length[name])
            self._follow(end, follow.sum_of(self.phase_start[name], self.phase_length[name]))

    def _size_kernels(self) -> None:
        """d[g] >= head + max(busy, phase, port time) + tail, and the phase starts after the head, ends by the tail."""
        model, facts = self.model, self.facts
        heads: dict[str, list[Linear]] = {name: [] for name in facts.order}
        tails: dict[str, list[Linear]] = {name: [] for name in facts.order}
        for g, candidate in enumerate(self.instance.candidates):
            ways = self.instance.implementations(candidate)
            least = sum(self.x[g, i] * way.cost.least_ns for i, way in enumerate(ways))
            around = sum(self.x[g, i] * (way.cost.head_ns + way.cost.tail_ns) for i, way in enumerate(ways))
            model.add(self.duration[g] >= least)
            model.add(self.duration[g] >= around + self.group_phase[g])
            model.add(self.duration[g] <= self.horizon * self.y[g])
            for i, way in enumerate(ways):
                if way.cost.miss_ns_per_mib:
                    drawn = sum(
                        self.stream[g, t] * facts.miss_ns(way.cost, facts.read_bytes(candidate, t))
                        for t in self.routed_reads(g)
                    )
                    fixed = way.cost.head_ns + way.cost.tail_ns
                    model.add(self.duration[g] >= fixed + drawn).only_enforce_if(self.x[g, i])
                heads[candidate.operators[0]].append(self.x[g, i] * way.cost.head_ns)
                tails[candidate.operators[0]].append(self.x[g, i] * way.cost.tail_ns)
        for name in facts.order:
            phase = self.has_phase[name]
            model.add(self.phase_start[name] >= self.start[name] + sum(heads[name])).only_enforce_if(phase)
            model.add(self.phase_end[name] + sum(tails[name]) <= self.end[name]).only_enforce_if(phase)
            model.add(self.phase_start[name] == 0).only_enforce_if(phase.negated())

    def _order_kernels(self) -> None:
        """S[consumer] >= E[producer] unless one kernel holds both; S and E never decrease along an edge."""
        self.same: dict[tuple[str, str], cp_model.IntVar] = {}
        holders = {name: set(groups) for name, groups in self.instance.candidates_of.items()}
        for edge in self.facts.edges:
            pair = (edge.producer, edge.consumer)
            if pair in self.same:
                continue
            both = sorted(holders[edge.producer] & holders[edge.consumer])
            same = self._bool(f"same[{edge.producer},{edge.consumer}]")
            self.same[pair] = same
            self.model.add(sum(self.y[g] for g in both) == same)
            self._follow(same, follow.any_of([self.y[g] for g in both]))
            self.model.add(self.start[edge.consumer] >= self.end[edge.producer]).only_enforce_if(same.negated())

    def _time_moves(self) -> None:
        """Explicit moves: a spill after its producer; a fill after the tensor is in HBM; readers after the move."""
        model, facts, graph = self.model, self.facts, self.instance.graph
        self.spill_start: dict[str, cp_model.IntVar] = {}
        self.fill_start: dict[str, cp_model.IntVar] = {}
        for t, spill in self.spill.items():
            begin = self.spill_start[t] = self._time(f"spill_start[{t}]")
            model.add(begin >= self.end[graph.producer[t]]).only_enforce_if(spill)
            model.add(begin + facts.move_ns(t) <= self.latency).only_enforce_if(spill)
            model.add(begin == 0).only_enforce_if(spill.negated())
        for t, fill in self.fill.items():
            begin = self.fill_start[t] = self._time(f"fill_start[{t}]")
            model.add(begin == 0).only_enforce_if(fill.negated())
            if t in graph.producer:
                model.add(begin >= self.end[graph.producer[t]]).only_enforce_if(fill)
            if t in self.spill:
                model.add(begin >= self.spill_start[t] + facts.move_ns(t)).only_enforce_if(fill, self.spill[t])
            for g in self.readers.get(t, []):
                first = self.instance.candidates[g].operators[0]
                model.add(self.start[first] >= begin + facts.move_ns(t)).only_enforce_if(self.far[g, t])
        for t, spill in self.spill.items():
            for g in self.readers.get(t, []):
                first = self.instance.candidates[g].operators[0]
                model.add(self.start[first] >= self.spill_start[t] + facts.move_ns(t)).only_enforce_if(
                    spill, self.stream[g, t]
                )

    # ---------------------------------------------------------------- shared resources

    @cached_property
    def _carried(self) -> dict[str, list[int]]:
        """Operator -> groups of which it is the first."""
        carried: dict[str, list[int]] = {name: [] for name in self.facts.order}
        for g, candidate in enumerate(self.instance.candidates):
            carried[candidate.operators[0]].append(g)
        return carried

    @cached_property
    def kernel_interval(self) -> dict[str, cp_model.IntervalVar]:
        """Optional interval of the kernel carried by each operator."""
        self.carries: dict[str, cp_model.IntVar] = {}
        found = {}
        for name, groups in self._carried.items():
            carries = self.carries[name] = self._bool(f"carries[{name}]")
            self.model.add(sum(self.y[g] for g in groups) == carries)
            self._follow(carries, follow.any_of([self.y[g] for g in groups]))
            length = self._follow(self._time(f"D[{name}]"), follow.difference_of(self.end[name], self.start[name]))
            self.model.add(length == self.end[name] - self.start[name])
            found[name] = self.model.new_optional_interval_var(
                self.start[name], length, self.end[name], carries, f"kernel[{name}]"
            )
        return found

    def _demand(self, name: str, label: str, amounts: dict[tuple[int, int], int]) -> cp_model.IntVar | None:
        """What the kernel carried by an operator asks of a resource: sum of x[g,i] times its amount, if any."""
        wanted = {key: amount for key, amount in amounts.items() if amount}
        if not wanted:
            return None
        values = sorted({0, *wanted.values()})
        demand = self.model.new_int_var_from_domain(cp_model.Domain.from_values(values), f"{label}[{name}]")
        self.model.add(demand == sum(self.x[key] * amount for key, amount in wanted.items()))
        return self._follow(demand, follow.weighted_of([(self.x[key], amount) for key, amount in wanted.items()]))

    def _cumulative(self, label: str, capacity: int) -> None:
        """At no time more than ``capacity`` in use; ``label`` is a field of the tiling."""
        intervals, demands = [], []
        for name, groups in self._carried.items():
            amounts = {
                (g, i): getattr(way.tiling, label)
                for g in groups
                for i, way in enumerate(self.instance.implementations(self.instance.candidates[g]))
            }
            demand = self._demand(name, label, amounts)
            if demand is not None:
                intervals.append(self.kernel_interval[name])
                demands.append(demand)
        if intervals:
            self.model.add_cumulative(intervals, demands, capacity)

    def _share_cores(self) -> None:
        """Cube cores and vector cores in use never exceed what the chip has."""
        self._cumulative("aic", self.instance.machine.aic_count)
        self._cumulative("aiv", self.instance.machine.aiv_count)

    def _share_l2_rate(self) -> None:
        """Shares of the L2 rate never add up to more than the whole."""
        self._cumulative("l2_permille", 1000)

    def _share_channel(self) -> None:
        """HBM phases and explicit moves exclude one another."""
        intervals = [
            self.model.new_optional_interval_var(
                self.phase_start[name],
                self.phase_length[name],
                self.phase_end[name],
                self.has_phase[name],
                f"phase[{name}]",
            )
            for name in self.facts.order
        ]
        for starts, flags in ((self.spill_start, self.spill), (self.fill_start, self.fill)):
            intervals += [
                self.model.new_optional_fixed_size_interval_var(
                    begin, self.facts.move_ns(t), flags[t], f"move[{begin.name}]"
                )
                for t, begin in starts.items()
            ]
        self.model.add_no_overlap(intervals)

    def _share_link(self) -> None:
        """Collectives exclude one another on the link."""
        linked = [
            self.kernel_interval[name]
            for name, groups in self._carried.items()
            if any(self.facts.kind(self.instance.candidates[g]) is KernelKind.LINK for g in groups)
        ]
        if len(linked) > 1:
            self.model.add_no_overlap(linked)

    # ---------------------------------------------------------------- L2

    @cached_property
    def l2_blocks(self) -> dict[tuple[str, str], tuple[cp_model.IntervalVar, cp_model.IntVar | int]]:
        """What may lie in L2: (kind, name) -> (optional interval in time, bytes in units of the alignment).

        ``near``: from the producer's start to the end of the last reader (and of the spill). ``far``: from the
        start of the move on. ``work``: the workspace of a mixed kernel while it runs.
        """
        model, facts, graph = self.model, self.facts, self.instance.graph
        unit = facts.l2_unit
        blocks: dict[tuple[str, str], tuple[cp_model.IntervalVar, cp_model.IntVar | int]] = {}

        def add(kind: str, t: str, begin: cp_model.IntVar, flag: cp_model.IntVar) -> cp_model.IntVar:
            end = self.block_end[kind, t] = self._time(f"{kind}_end[{t}]")
            length = self._follow(self._time(f"{kind}_length[{t}]"), follow.difference_if_of(end, begin, flag))
            model.add(length == end - begin).only_enforce_if(flag)
            model.add(length == 0).only_enforce_if(flag.negated())
            model.add(end == 0).only_enforce_if(flag.negated())
            interval = model.new_optional_interval_var(begin, length, end, flag, f"{kind}[{t}]")
            blocks[kind, t] = (interval, facts.l2_size[t] // unit)
            self.block_flag[kind, t] = flag
            return end

        for t, keep in self.keep.items():
            maker = graph.producer[t]
            end = add("near", t, self.start[maker], keep)
            model.add(end >= self.end[maker]).only_enforce_if(keep)
            model.add(end >= self.spill_start[t] + facts.move_ns(t)).only_enforce_if(self.spill[t])
            for g in self.readers.get(t, []):
                reader = self.instance.candidates[g].operators[0]
                model.add(end >= self.end[reader]).only_enforce_if(self.near[g, t])
        for t, fill in self.fill.items():
            end = add("far", t, self.fill_start[t], fill)
            for g in self.readers.get(t, []):
                reader = self.instance.candidates[g].operators[0]
                model.add(end >= self.end[reader]).only_enforce_if(self.far[g, t])
        for name, groups in {} if self.condensed else self._carried.items():
            amounts = {
                (g, i): way.cost.workspace_bytes // unit
                for g in groups
                for i, way in enumerate(self.instance.implementations(self.instance.candidates[g]))
            }
            demand = self._demand(name, "workspace", amounts)
            if demand is None:
                continue
            flag = self._bool(f"work[{name}]")
            users = [self.x[key] for key, amount in amounts.items() if amount]
            model.add(sum(users) == flag)
            self._follow(flag, follow.any_of(users))
            length = self._follow(
                self._time(f"work_length[{name}]"), follow.difference_of(self.end[name], self.start[name])
            )
            model.add(length == self.end[name] - self.start[name])
            interval = model.new_optional_interval_var(self.start[name], length, self.end[name], flag, f"work[{name}]")
            blocks["work", name] = (interval, demand)
            self.block_flag["work", name] = flag
        return blocks

    def _fit_l2(self) -> None:
        """Bytes in L2 never exceed its capacity."""
        if self.l2_blocks:
            intervals, demands = zip(*self.l2_blocks.values(), strict=True)
            self.model.add_cumulative(intervals, demands, self.facts.l2_capacity // self.facts.l2_unit)

    def _place_addresses(self) -> None:
        """No two blocks overlap in address x time."""
        capacity = self.facts.l2_capacity // self.facts.l2_unit
        across, along = [], []
        for key, (interval, size) in self.l2_blocks.items():
            kind, name = key
            place = self.address[key] = self.model.new_int_var(0, capacity, f"address[{kind},{name}]")
            flag = self.block_flag[key]
            self.model.add(place == 0).only_enforce_if(flag.negated())
            if isinstance(size, int):
                span = self.model.new_optional_fixed_size_interval_var(place, size, flag, f"span[{kind},{name}]")
                self.model.add(place <= capacity - size)
            else:
                top = self.model.new_int_var(0, capacity, f"top[{kind},{name}]")
                self._follow(top, follow.sum_of(place, size))
                self.model.add(top == place + size)
                span = self.model.new_optional_interval_var(place, size, top, flag, f"span[{kind},{name}]")
            across.append(interval)
            along.append(span)
        self.model.add_no_overlap_2d(across, along)
