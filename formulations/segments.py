"""A graph cut at operators that everything passes: what lies between two of them is bounded by itself.

Let u come before v on every path that matters. Kernels that hold a descendant of u and an ancestor of v, and not v,
start no earlier than u's kernel and end before v's starts. So the least time from the start of u's kernel to the start
of v's, over all kernels and tilings, is a lower bound of that time in every schedule; along a chain of such operators
these times do not overlap, and their sum bounds the latency. What a prefetch can bring is taken to be in L2 already;
sources that no move can bring are streamed. Where layers repeat, segments repeat, and each is solved once.

The sum says nothing where the channel is the bottleneck: there, traffic does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from formulations.facts import Facts
from instances.graph import Graph, Operator, OpKind, Role
from instances.instance import Instance
from instances.kernels import Candidate, Cost, Implementation, KernelKind, Rule, Template, Tiling

FREE = Template(
    kind=KernelKind.VECTOR,
    rule=Rule.SINGLE,
    implementations=(
        Implementation(
            tiling=Tiling(tile={}, aic=0, aiv=0),
            cost=Cost(head_ns=0, busy_ns=0, tail_ns=0, engines_ns={}, l2_bytes=0),
        ),
    ),
)
"""A kernel that takes no time: the one at the end of a segment belongs to the next."""


@dataclass(frozen=True)
class Segment:
    """The instance of one segment, whose least latency counts ``count`` times; equal ones have been put together."""

    instance: Instance
    count: int


def cut(facts: Facts, least: int) -> list[Segment]:
    """Segments of at least so many operators; one for the whole graph where nothing can be cut.

    A cut operator is related to every operator but those whose results nobody reads. Of those within as many more
    operators the one is taken of which least work could hide in the free kernel that holds it.
    """
    ends: list[str | None] = [None]
    window: list[str] = []
    since = 0
    for name in [*_passed_by_all(facts), None]:
        if window and (name is None or facts.order[name] >= since + 2 * least):
            best = min(window, key=lambda one: (_hidden_ns(facts, one), facts.order[one]))
            ends.append(best)
            since = facts.order[best]
            window = [one for one in window if facts.order[one] >= since + least]
        if name is not None and facts.order[name] >= since + least:
            window.append(name)
    ends.append(None)
    found: dict[tuple[object, ...], Segment] = {}
    for u, v in pairwise(ends):
        instance, form = _segment(facts, u, v)
        if instance is None:
            continue
        known = found.get(form)
        found[form] = Segment(instance, 1) if known is None else Segment(known.instance, known.count + 1)
    return list(found.values())


def _passed_by_all(facts: Facts) -> list[str]:
    """Operators related to all others whose results are read, in topological order."""
    inner = {name for name in facts.order if facts.successors[name]}
    return [name for name in facts.order if inner <= facts.related(name)[0] | facts.related(name)[1] | {name}]


def _hidden_ns(facts: Facts, v: str) -> int:
    """Work of operators before ``v`` that a kernel which holds ``v`` may hold too, each by its own kernel's price."""
    candidates = facts.instance.candidates
    alone = {c.operators[0]: facts.least_ns[g] for g, c in enumerate(candidates) if len(c.operators) == 1}
    above = facts.related(v)[0]
    return max(
        sum(alone.get(name, 0) for name in candidates[g].operators if name in above)
        for g in facts.instance.candidates_of[v]
    )


def _segment(facts: Facts, u: str | None, v: str | None) -> tuple[Instance | None, tuple[object, ...]]:
    """The instance between two operators, and what it has in common with others of the same form."""
    inside = set(facts.order)
    if u is not None:
        inside = set(facts.related(u)[1]) | {u}
    if v is not None:
        inside &= facts.related(v)[0]
    if not inside or (u is None and v is None and len(inside) == len(facts.order) and facts.large):
        return None, ()
    names = [name for name in facts.order if name in inside or name == v]
    place = {name: i for i, name in enumerate(names)}
    made = {access.tensor for name in names for access in facts.graph.operator[name].writes}
    operators = tuple(_bare(facts, name, made) for name in names)
    touched = {access.tensor for operator in operators for access in (*operator.reads, *operator.writes)}
    templates = facts.instance.templates
    kept: dict[tuple[tuple[int, ...], int], Candidate] = {}
    for g in sorted({g for name in names for g in facts.instance.candidates_of[name]}):
        candidate = facts.instance.candidates[g]
        members = tuple(name for name in candidate.operators if name in place)
        template = len(templates) if v in members else candidate.template
        key = (tuple(place[name] for name in members), template)
        kept.setdefault(key, _truncated(members, template, operators, place, made, ends=v in members))
    tensors = tuple(
        tensor if tensor.role.starts_in_hbm else tensor.model_copy(update={"role": Role.INTERMEDIATE})
        for tensor in facts.graph.tensors
        if tensor.name in touched
    )
    # built without checks: an operator that reads nothing is no document, but all a bound needs
    graph = Graph.model_construct(name=facts.graph.name, tensors=tensors, operators=operators)
    instance = Instance.model_construct(
        name=facts.instance.name,
        graph=graph,
        machine=facts.machine,
        templates=(*templates, FREE),
        candidates=tuple(kept.values()),
        census=facts.instance.census,
    )
    numbered = {tensor.name: n for n, tensor in enumerate(tensors)}
    form = tuple(
        (tuple(numbered[a.tensor] for a in o.reads), tuple(numbered[a.tensor] for a in o.writes)) for o in operators
    )
    return instance, (form, tuple(kept), tuple((t.size_bytes, t.role.starts_in_hbm) for t in tensors))


def _bare(facts: Facts, name: str, made: set[str]) -> Operator:
    """An operator without the reads of what is already in L2; of its kind nobody asks, its kernels are priced."""
    operator = facts.graph.operator[name]
    reads = tuple(
        access
        for access in operator.reads
        if access.tensor in made or (access.tensor in facts.sources and access.tensor not in facts.prefetchable)
    )
    kind = OpKind.ELEMENTWISE
    return Operator.model_construct(name=name, kind=kind, dims=operator.dims, reads=reads, writes=operator.writes)


def _truncated(
    members: tuple[str, ...],
    template: int,
    operators: tuple[Operator, ...],
    place: dict[str, int],
    made: set[str],
    *,
    ends: bool,
) -> Candidate:
    """What of a candidate lies in a segment, at the price of the whole; nothing is read or written by what is free."""
    bodies = [operators[place[name]] for name in members]
    written = dict.fromkeys(access.tensor for body in bodies for access in body.writes)
    read = dict.fromkeys(access.tensor for body in bodies for access in body.reads if access.tensor not in written)
    if ends:  # what its own sources take belongs to the next segment
        read = {t: None for t in read if t in made}
    return Candidate(operators=members, template=template, reads=tuple(read), writes=tuple(written))
