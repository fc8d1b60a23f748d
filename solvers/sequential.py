"""Heuristics that run one kernel after the other, as Ascend streams do.

``unfused``: one kernel per operator, every tensor through HBM. ``greedy``: groups by bytes saved, tensors kept in L2
as long as they fit, the one used furthest ahead evicted (written out by its producer and read back from HBM).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import networkx as nx

from formulations.facts import Facts
from formulations.plan import Decisions, KernelChoice, ResidencyChoice, time_decisions
from instances.errors import NoScheduleError
from instances.instance import Instance
from instances.kernels import Candidate
from instances.schedule import Schedule, Source
from solvers.bounds import proven_schedule
from solvers.incumbent import Incumbent
from solvers.interface import Options, Result


def solve_unfused(instance: Instance, options: Options) -> Result:
    """One kernel per operator, everything through HBM."""
    return finish(instance, options, "unfused", unfused_decisions(Facts(instance)))


def solve_greedy(instance: Instance, options: Options) -> Result:
    """Fuse by bytes saved, keep in L2 what fits, evict the tensor used furthest ahead."""
    return finish(instance, options, "greedy", greedy_decisions(Facts(instance)))


def begin(instance: Instance, options: Options) -> Incumbent:
    """Where a search begins: the greedy schedule, or the warm start where that is the better one."""
    incumbent = Incumbent(instance, options)
    incumbent.offer_decisions(greedy_decisions(incumbent.facts), "greedy")
    incumbent.offer_warm_start()
    return incumbent


def finish(instance: Instance, options: Options, name: str, decisions: Decisions) -> Result:
    """The result of a heuristic: its schedule, with the bounds that take a few seconds."""
    incumbent = Incumbent(instance, options)
    if not incumbent.offer_decisions(decisions, name):
        raise NoScheduleError(f"the tensors that {name} keeps in L2 cannot be packed into its addresses")
    incumbent.prove_quickly()
    incumbent.prove_statically()
    return incumbent.finish(name)


def unfused_decisions(facts: Facts) -> Decisions:
    """One kernel per operator in topological order, no tensor kept in L2."""
    single = {
        candidate.operators[0]: g
        for g, candidate in enumerate(facts.instance.candidates)
        if len(candidate.operators) == 1
    }
    return _line_up(facts, [single[name] for name in facts.order], keep=False)


def greedy_decisions(facts: Facts) -> Decisions:
    """Groups by bytes saved, in topological order, with tensors kept in L2 while they fit."""
    return keep_what_fits(facts, choose_by_bytes_saved(facts))


def keep_what_fits(facts: Facts, groups: Sequence[int]) -> Decisions:
    """Kernels one after the other, with tensors kept in L2 while they fit.

    If what is kept cannot be packed into addresses, the room for it is cut by a tenth until it can.
    """
    room = facts.l2_capacity
    while True:
        decisions = _line_up(facts, groups, keep=True, room=room)
        try:
            proven_schedule(facts, decisions, "trial", {"none": 0})
        except NoScheduleError:
            room = room * 9 // 10
        else:
            return decisions


def greedy_schedule(facts: Facts, bounds: dict[str, int]) -> Schedule:
    """The greedy schedule with given bounds."""
    return proven_schedule(facts, greedy_decisions(facts), "greedy", bounds)


def choose_by_bytes_saved(facts: Facts) -> list[int]:
    """Candidates that cover every operator once, larger savings first, in an order that respects precedence."""

    def rank(g: int) -> tuple[int, int, int]:
        candidate = facts.instance.candidates[g]
        return -bytes_saved(facts, candidate), -len(candidate.operators), g

    return cover_in_turn(facts, sorted(range(len(facts.instance.candidates)), key=rank))


def bytes_saved(facts: Facts, candidate: Candidate) -> int:
    """Bytes that need not be moved when a candidate's operators are one kernel: made and read inside, or shared."""
    inside = {access.tensor for name in candidate.operators for access in facts.graph.operator[name].writes} - set(
        candidate.writes
    )
    made = sum(2 * facts.graph.tensor[t].size_bytes for t in inside)
    read_apart = sum(
        facts.graph.touched_bytes(access)
        for name in candidate.operators
        for access in facts.graph.operator[name].reads
        if access.tensor not in inside
    )
    return made + read_apart - sum(facts.read_bytes(candidate, t) for t in candidate.reads)


def cover_in_turn(facts: Facts, ranked: Sequence[int]) -> list[int]:
    """Candidates taken as ranked until they cover every operator once, in an order that respects precedence."""
    home = _cover(facts, ranked, LOCAL_REACH)
    contracted = _contracted(facts, home)
    if not nx.is_directed_acyclic_graph(contracted):  # a cycle longer than the local check looks
        home = _cover(facts, ranked, len(facts.order))
        contracted = _contracted(facts, home)
    first = {g: min(facts.order[name] for name in facts.instance.candidates[g].operators) for g in set(home.values())}
    return list(nx.lexicographical_topological_sort(contracted, key=lambda node: first[node]))


def _cover(facts: Facts, ranked: Sequence[int], reach: int) -> dict[str, int]:
    """Operator -> group, taking groups in turn unless taken operators or a cycle among groups forbid it."""
    home: dict[str, int] = {}
    for g in ranked:
        members = facts.instance.candidates[g].operators
        if any(name in home for name in members):
            continue
        if len(members) == 1 or not _comes_back(facts, home, set(members), reach):
            home.update(dict.fromkeys(members, g))
    return home


def _comes_back(facts: Facts, home: dict[str, int], members: set[str], reach: int) -> bool:
    """Whether a walk that leaves some operators, entering groups anywhere and leaving them anywhere, comes back.

    Operators more than ``reach`` positions behind the last member are not followed.
    """
    last = max(facts.order[name] for name in members) + reach
    seen: set[str] = set()
    frontier = [name for member in members for name in facts.successors[member] if name not in members]
    while frontier:
        name = frontier.pop()
        if name in members:
            return True
        if name in seen or facts.order[name] > last:
            continue
        together = facts.instance.candidates[home[name]].operators if name in home else (name,)
        seen.update(together)
        frontier.extend(after for one in together for after in facts.successors[one])
    return False


def _contracted(facts: Facts, home: dict[str, int]) -> nx.DiGraph:
    """The graph with each group one node; operators without a group stand for themselves (by name)."""
    graph = nx.DiGraph()
    graph.add_nodes_from(home.get(name, name) for name in facts.order)
    graph.add_edges_from(
        (a, b)
        for edge in facts.edges
        if (a := home.get(edge.producer, edge.producer)) != (b := home.get(edge.consumer, edge.consumer))
    )
    return graph


LOCAL_REACH = 100
"""How far behind a group cycles are looked for before a check of the whole graph."""


@dataclass
class _Memory:
    """Which made tensors are in L2 as kernels go by, and which had to be written out."""

    room: int
    held: dict[str, int] = field(default_factory=dict)  # tensor -> bytes
    written: set[str] = field(default_factory=set)

    def admit(self, needed: int, next_use: dict[str, int], pinned: set[str]) -> bool:
        """Make room for ``needed`` bytes; evicts what is used furthest ahead, never what is pinned."""
        while sum(self.held.values()) + needed > self.room:
            victims = [t for t in self.held if t not in pinned]
            if not victims:
                return False
            victim = max(victims, key=lambda t: (next_use.get(t, 1 << 60), t))
            del self.held[victim]
            self.written.add(victim)
        return True


def _line_up(facts: Facts, groups: Sequence[int], keep: bool, room: int = 0) -> Decisions:
    """Kernels one after the other; with ``keep``, results stay in L2 until their last use or eviction."""
    uses: dict[str, list[int]] = {}
    for position, g in enumerate(groups):
        for t in facts.instance.candidates[g].reads:
            uses.setdefault(t, []).append(position)
    memory = _Memory(room)
    reads: list[dict[str, Source]] = []
    kept: set[str] = set()
    chosen = [_fastest(facts, g) for g in groups]
    for position, g in enumerate(groups):
        candidate = facts.instance.candidates[g]
        ways = facts.instance.implementations(candidate)
        reads.append({t: Source.L2 if t in memory.held else Source.HBM for t in candidate.reads})
        next_use = {t: next((u for u in uses.get(t, ()) if u > position), 1 << 60) for t in memory.held}
        pinned = set(candidate.reads)
        # a reader holds its tensors while it runs, so its own results and workspace come on top
        if not memory.admit(ways[chosen[position]].cost.workspace_bytes, next_use, pinned):
            raise NoScheduleError(f"kernel {'+'.join(candidate.operators)} finds no room in L2 for its workspace")
        for t in candidate.writes:
            size = facts.l2_size[t]
            if (
                keep
                and uses.get(t)
                and memory.admit(size + ways[chosen[position]].cost.workspace_bytes, next_use, pinned)
            ):
                memory.held[t] = size
                next_use[t] = min(uses[t])
                pinned.add(t)
                kept.add(t)
        for t in [t for t in memory.held if not any(u > position for u in uses.get(t, ()))]:
            del memory.held[t]
    return _start_in_turn(facts, groups, chosen, reads, kept, memory.written)


def _start_in_turn(
    facts: Facts,
    groups: Sequence[int],
    chosen: Sequence[int],
    reads: Sequence[dict[str, Source]],
    kept: set[str],
    written: set[str],
) -> Decisions:
    """Start each kernel when the one before has ended, its phase with its body."""
    kernels: list[KernelChoice] = []
    now = 0
    for g, i, sources in zip(groups, chosen, reads, strict=True):
        candidate = facts.instance.candidates[g]
        cost = facts.instance.implementations(candidate)[i].cost
        writes = {t: (t in kept, t not in kept or t in written or facts.is_output(t)) for t in candidate.writes}
        phased = Source.HBM in sources.values() or any(hbm for _, hbm in writes.values())
        choice = KernelChoice(g, i, now, now + cost.head_ns if phased else None, sources, writes)
        now = time_decisions(facts, Decisions((choice,))).end[0]
        kernels.append(choice)
    return Decisions(tuple(kernels), (), tuple(ResidencyChoice(t, None, brought=False) for t in sorted(kept)))


def _fastest(facts: Facts, g: int) -> int:
    """The implementation that ends first with everything in L2."""
    ways = facts.instance.implementations(facts.instance.candidates[g])
    return min(range(len(ways)), key=lambda i: (ways[i].cost.least_ns, i))
