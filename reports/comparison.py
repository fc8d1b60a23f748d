"""Two schedules of one instance side by side: what differs, and what each difference is worth.

The latency of a schedule is the length of its critical chain (:mod:`reports.chain`): steps that follow one another
from time 0 to the end without a gap, each a kernel, a part of one, a move or idle time. So the difference of two
latencies is the difference of two such sums, term by term: every step is cut into head, engines, channel and tail,
terms of the same operators in both chains are set against each other, and what is left of each pair is what it is
worth. These differences add up to that of the latencies exactly, by construction; nothing is shared out by weights.
They are summed by class, and by operators: there a move counts with the operators that read what it brings.

What the method says, and what not: a term is worth what it adds to the chain that was found. Where several chains are
equally long one of them is taken (the rule is in :meth:`reports.chain.Network.chain`), and a difference off both
chains is worth nothing. What a kernel takes by itself under either tiling, with the channel to itself, stands beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from instances.instance import Instance
from instances.kernels import Tiling
from instances.schedule import Kernel, Move, MoveKind, Schedule
from reports.chain import Network, Part, Step
from reports.facts import KernelFacts
from reports.view import View, source_of
from reports.wording import Facts, amount, cores_words, listed, ns


class Kind(StrEnum):
    """Classes of differences between chains."""

    FUSION = "fusion"  # the same operators in other groups
    TILING = "tiling"  # the same group run in another way
    SOURCES = "sources"  # the same kernel, with bytes through its ports that the other finds in L2
    CHANNEL = "HBM channel"  # phases and moves on the chain, and what phases lengthen kernels by
    ORDER = "order"  # the same kernel, of which the chains take different parts
    IDLE = "idle"
    SAME = "the same"


KIND_WORDS = {
    Kind.FUSION: "the same operators in other groups",
    Kind.TILING: "the same group with another tile or on other cores",
    Kind.SOURCES: "the same kernel, streaming what the other finds in L2",
    Kind.CHANNEL: "phases and moves on the HBM channel that the chain waits for",
    Kind.ORDER: "kernels that only one of the two chains goes through, or goes through in other parts",
    Kind.IDLE: "time in which the chain waits for nothing",
    Kind.SAME: "what is alike on both chains",
}
"""What each class is."""


@dataclass(frozen=True)
class Share:
    """A term of the difference: what it adds to the chain of either schedule (ns).

    ``operators`` are those that it serves: of a move the first that read what it brings.
    """

    kind: Kind
    label: str
    part: str
    operators: str
    a_ns: int
    b_ns: int

    @property
    def difference_ns(self) -> int:
        """Latency of b more than of a, by this term."""
        return self.b_ns - self.a_ns


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in both: which kind of thing, whose, in words, with the facts.

    ``worth_ns`` is what the operators, with the moves for them, or the move concerned add to b's chain more than to
    a's.
    """

    what: str
    label: str
    words: str
    worth_ns: int
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Region:
    """Operators that both schedules run in kernels of their own: the smallest such set."""

    a: tuple[KernelFacts, ...]
    b: tuple[KernelFacts, ...]

    @property
    def same(self) -> bool:
        """Whether both run it as one kernel."""
        return len(self.a) == len(self.b) == 1

    @property
    def label(self) -> str:
        """The operators."""
        return "+".join(dict.fromkeys(name for row in self.a for name in row.kernel.operators))


@dataclass(frozen=True)
class Comparison:
    """Two schedules of one instance. ``differences`` and ``shares`` go from ``a`` to ``b``."""

    instance: Instance
    a: View
    b: View
    shares: tuple[Share, ...]
    differences: tuple[Difference, ...]

    @property
    def difference_ns(self) -> int:
        """Latency of b more than of a: the sum of all shares."""
        return self.b.schedule.latency_ns - self.a.schedule.latency_ns

    @property
    def by_kind(self) -> tuple[tuple[Kind, int, int], ...]:
        """Classes with what they add to the chain of a and of b (ns), the largest difference first."""
        sums: dict[Kind, list[int]] = {}
        for share in self.shares:
            of = sums.setdefault(share.kind, [0, 0])
            of[0] += share.a_ns
            of[1] += share.b_ns
        rows = [(kind, a, b) for kind, (a, b) in sums.items()]
        return tuple(sorted(rows, key=lambda row: (-abs(row[2] - row[1]), row[0].value)))

    @property
    def by_operators(self) -> tuple[tuple[str, int, int], ...]:
        """Operators, with the moves for them, and what they add to the chain of a and of b (ns), the largest first."""
        sums: dict[str, list[int]] = {}
        for share in self.shares:
            of = sums.setdefault(share.operators, [0, 0])
            of[0] += share.a_ns
            of[1] += share.b_ns
        rows = [(label, a, b) for label, (a, b) in sums.items()]
        return tuple(sorted(rows, key=lambda row: (-abs(row[2] - row[1]), row[0])))

    @property
    def headline(self) -> str:
        """The two latencies in a sentence."""
        a, b = self.a.schedule.latency_ns, self.b.schedule.latency_ns
        change = f"{ns(b - a)} more" if b > a else f"{ns(a - b)} less" if b < a else "the same"
        return f"a takes {ns(a)}, b {ns(b)}: {change}."


def compare(instance: Instance, a: Schedule, b: Schedule) -> Comparison:
    """Set two schedules of one instance against each other.

    Raises
    ------
    InputError
        Where a schedule names what the instance does not have, or runs a kernel that has no price.
    """
    views = View(instance, a), View(instance, b)
    regions = tuple(_regions(*views))
    shares = _shares(views, regions)
    worth: Counter[str] = Counter()
    for share in shares:
        worth[share.operators] += share.difference_ns
        if share.label != share.operators:
            worth[share.label] += share.difference_ns
    differences = [
        *_kernel_differences(views, regions, worth),
        *_move_differences(views, worth),
        *_residency_differences(views),
    ]
    return Comparison(instance, *views, shares, tuple(differences))


def _regions(a: View, b: View) -> Iterator[Region]:
    """The finest cut of the operators that both covers respect, in order of a's starts."""
    parent = {name: name for name in a.graph.operator}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for row in (*a.rows, *b.rows):
        for name in row.kernel.operators[1:]:
            parent[root(name)] = root(row.kernel.operators[0])
    found: dict[str, tuple[list[KernelFacts], list[KernelFacts]]] = {}
    for side, view in enumerate((a, b)):
        for row in view.rows:
            found.setdefault(root(row.kernel.operators[0]), ([], []))[side].append(row)
    for mine, theirs in found.values():
        yield Region(tuple(mine), tuple(theirs))


def _shares(views: tuple[View, View], regions: Sequence[Region]) -> tuple[Share, ...]:
    """The terms of both chains against each other."""
    home = {name: region for region in regions for row in region.a for name in row.kernel.operators}
    terms: dict[tuple[str, str], list[int]] = {}
    kinds: dict[tuple[str, str], Kind] = {}
    chains = tuple(Network(view).chain() for view in views)
    whole = [_whole_kernels(chain) for chain in chains]
    for side, (view, chain) in enumerate(zip(views, chains, strict=True)):
        for step in chain:
            for label, part, length_ns, kind in _terms(view, step, home, whole):
                if length_ns:
                    terms.setdefault((label, part), [0, 0])[side] += length_ns
                    kinds[label, part] = kind
    for key, (mine, theirs) in terms.items():
        if mine == theirs and kinds[key] is Kind.SOURCES:
            kinds[key] = Kind.SAME
    serves = {
        f"{move.kind.value} of {move.tensor}": home[_served(view, move)].label
        for view in views
        for move in view.schedule.moves
    }
    found = [Share(kinds[key], *key, serves.get(key[0], key[0]), *lengths) for key, lengths in terms.items()]
    return tuple(sorted(found, key=lambda share: (-abs(share.difference_ns), share.label, share.part)))


def _served(view: View, move: Move) -> str:
    """The operator that a move is for: the first that reads what it brings, the one that makes what it writes out."""
    producer = view.graph.producer.get(move.tensor)
    return view.graph.consumers[move.tensor][0] if move.kind is not MoveKind.SPILL or producer is None else producer


def _whole_kernels(chain: Iterable[Step]) -> set[tuple[str, ...]]:
    """Kernels that a chain goes through from start to end."""
    return {step.operators for step in chain if step.part is Part.KERNEL}


def _terms(
    view: View, step: Step, home: dict[str, Region], whole: list[set[tuple[str, ...]]]
) -> Iterator[tuple[str, str, int, Kind]]:
    """The terms of a step: whose, which, how long (ns), of which class."""
    if step.part is Part.IDLE:
        yield "idle time", "idle", step.length_ns, Kind.IDLE
        return
    if step.part is Part.MOVE:
        yield step.label, "move", step.length_ns, Kind.CHANNEL
        return
    region = home[step.operators[0]]
    row = view.kernel_of[step.operators[0]]
    price = view.terms(row)
    if step.part is Part.KERNEL:
        engines = max(price.busy_ns, price.drawn_ns)
        parts = {
            "head": price.head_ns,
            "engines": engines,
            "channel": step.length_ns - price.head_ns - engines - price.tail_ns,
            "tail": price.tail_ns,
        }
    elif step.part is Part.HEAD:
        parts = {"head": step.length_ns}
    elif step.part is Part.PHASE:
        parts = {"channel": step.length_ns}
    else:
        parts = {"channel": step.length_ns - price.tail_ns, "tail": price.tail_ns}
    for part, length_ns in parts.items():
        yield region.label, part, length_ns, _kind(region, part, whole)


def _kind(region: Region, part: str, whole: list[set[tuple[str, ...]]]) -> Kind:
    if part == "channel":
        return Kind.CHANNEL
    if not region.same:
        return Kind.FUSION
    a, b = region.a[0].kernel, region.b[0].kernel
    if any(a.operators not in through for through in whole):
        return Kind.ORDER
    return Kind.SOURCES if a.tiling == b.tiling else Kind.TILING


def _kernel_differences(
    views: tuple[View, View], regions: Iterable[Region], worth: Counter[str]
) -> Iterator[Difference]:
    for region in regions:
        alone = [
            sum(view.terms(row).alone_ns for row in rows)
            for view, rows in zip(views, (region.a, region.b), strict=True)
        ]
        if not region.same:
            words = (
                f"a runs {_groups(region.a)}, b {_groups(region.b)}; by themselves {ns(alone[0])} and {ns(alone[1])}"
            )
            facts: Facts = {
                "a": [row.kernel.label for row in region.a],
                "b": [row.kernel.label for row in region.b],
                "a_alone_ns": alone[0],
                "b_alone_ns": alone[1],
            }
            yield Difference("fusion", region.label, words, worth[region.label], facts)
            continue
        a, b = region.a[0].kernel, region.b[0].kernel
        parts = list(_kernel_words(views, a, b, alone))
        if parts:
            facts = {
                "a_start_ns": a.start_ns,
                "b_start_ns": b.start_ns,
                "a_alone_ns": alone[0],
                "b_alone_ns": alone[1],
                "a_ns": region.a[0].duration_ns,
                "b_ns": region.b[0].duration_ns,
            }
            yield Difference("kernel", region.label, "; ".join(parts), worth[region.label], facts)


def _groups(rows: Sequence[KernelFacts]) -> str:
    return listed(f"[{row.kernel.label}]" for row in rows)


def _kernel_words(views: tuple[View, View], a: Kernel, b: Kernel, alone: list[int]) -> Iterator[str]:
    """How a kernel of the same operators differs."""
    if a.tiling != b.tiling:
        change = f"{ns(alone[0])} and {ns(alone[1])} by itself"
        yield f"tile {_tile(a.tiling)} in a, {_tile(b.tiling)} in b: {change}"
    elif (a.aic_ids, a.aiv_ids) != (b.aic_ids, b.aiv_ids):
        yield "on other cores of the same number"
    if (a.start_ns, a.end_ns) != (b.start_ns, b.end_ns):
        yield f"{ns(a.start_ns)} to {ns(a.end_ns)} in a, {ns(b.start_ns)} to {ns(b.end_ns)} in b"
    for read in a.reads:
        other = source_of(b, read.tensor)
        if other is not None and other is not read.source:
            size = views[0].read_bytes(a.operators, read.tensor)
            mine, theirs = (source.value.upper() for source in (read.source, other))
            yield f"{read.tensor} ({amount(size)}) from {mine} in a, from {theirs} in b"
    for mine_w, theirs_w in zip(a.writes, b.writes, strict=True):
        if (mine_w.l2, mine_w.hbm) != (theirs_w.l2, theirs_w.hbm):
            mine_to, theirs_to = _where(mine_w.l2, mine_w.hbm), _where(theirs_w.l2, theirs_w.hbm)
            yield f"{mine_w.tensor} to {mine_to} in a, to {theirs_to} in b"


def _tile(tiling: Tiling) -> str:
    cut = [f"{loop} {extent}" for loop, extent in tiling.tile.items()]
    cut += [f"{loop} in {count} parts" for loop, count in tiling.parts.items()]
    return f"{', '.join(cut) or 'whole'} on {cores_words(tiling)}"


def _where(l2: bool, hbm: bool) -> str:
    return " and ".join(name for name, there in (("L2", l2), ("HBM", hbm)) if there)


def _move_differences(views: tuple[View, View], worth: Counter[str]) -> Iterator[Difference]:
    """Moves of one alone, and those at other times."""
    sides = []
    for view in views:
        found: dict[str, list[tuple[int, int]]] = {}
        for move in sorted(view.schedule.moves, key=lambda move: move.start_ns):
            found.setdefault(f"{move.kind.value} of {move.tensor}", []).append((move.start_ns, move.end_ns))
        sides.append(found)
    for label in dict.fromkeys((*sides[0], *sides[1])):
        mine, theirs = sides[0].get(label, []), sides[1].get(label, [])
        if mine == theirs:
            continue
        times = [listed(f"{ns(start)} to {ns(end)}" for start, end in part) for part in (mine, theirs)]
        if mine and theirs:
            words = f"{times[0]} in a, {times[1]} in b"
        else:
            words = f"only in {'a' if mine else 'b'}, {times[0] or times[1]}"
        yield Difference("move", label, words, worth[label], {"a": mine, "b": theirs})


def _residency_differences(views: tuple[View, View]) -> Iterator[Difference]:
    """Tensors that are in L2 in one alone, or for another share of the bytes and time."""
    for name in views[0].graph.tensor:
        stays = [view.stays.get(name, []) for view in views]
        times = [[(s.residency.start_ns, s.residency.end_ns) for s in part] for part in stays]
        if bool(times[0]) == bool(times[1]) and len(times[0]) == len(times[1]):
            continue
        size = amount(views[0].graph.tensor[name].size_bytes)
        words = " in a, ".join(
            listed(f"{ns(start)} to {ns(end)}" for start, end in part) if part else "never" for part in times
        )
        yield Difference("in L2", name, f"{size}: {words} in b", 0, {"a": times[0], "b": times[1]})
