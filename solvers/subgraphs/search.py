"""Annealing over sequences of groups: grouping, order, recomputation and what stays, decided together.

A state is a sequence of groups; its price is that of the best retention (a shortest path over the boundaries). Moves
merge two groups wherever they stand, cut one in two, hand an operator to the group of a neighbour, move a group, repeat
an operator in the group that reads it, or take a repetition back. Merging across the sequence is what gathers products
that share an input; the order's own cuts (:mod:`solvers.subgraphs.chain`) are where it starts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from formulations.subgraphs.pricing import connected
from formulations.subgraphs.sequence import NOTHING, Chosen, Group, Sequences
from instances.subgraphs import Kind, SubgraphProblem
from solvers.subgraphs.chain import cut_order

LARGEST = 40
"""Most operators in a group."""

WINDOW, MOST_REBUILT = 5, 12
"""Groups, and operators, that are cut anew at a time."""

COOLING = (0.02, 0.0002)
"""First and last temperature, as shares of the latency."""


class Annealer:
    """Improves sequences of one problem until told to stop."""

    def __init__(self, sequences: Sequences, seed: int, left: Callable[[], float]) -> None:
        self.sequences = sequences
        self.problem = sequences.problem
        self.random = random.Random(seed)
        self.left = left  # share of the time that is left, 1 to 0

    def run(self, start: Chosen, on_better: Callable[[Chosen], None]) -> Chosen:
        """The best sequence found."""
        best = current = start
        while (left := self.left()) > 0:
            proposed = self._propose(current.groups)
            if proposed is None:
                continue
            warm = COOLING[1] * (COOLING[0] / COOLING[1]) ** left
            slack = -math.log(max(1e-12, self.random.random())) * warm * best.latency
            found = self.sequences.evaluate(proposed, current.latency + slack)
            if found is None:
                continue
            current = found
            if found.latency < best.latency * (1 - 1e-12):
                best = found
                on_better(found)
        return best

    # ------------------------------------------------------------------------- moves

    def _propose(self, groups: Sequence[Group]) -> list[Group] | None:
        moves = (
            *(self._merge, self._merge, self._hand_over, self._split, self._shift, self._repeat, self._drop),
            *(self._rebuild, self._rebuild),
        )
        return self.random.choice(moves)(list(groups))

    def _near(self, groups: list[Group], place: int) -> list[int]:
        """Other groups that share a tensor with one."""
        p = self.problem
        group = groups[place]
        ops = {o for op in group for o in (*p.before[op], *p.after[op])}
        ops |= {o for op in group for t in p.inputs[op] for o in p.readers[t]}
        return [i for i, other in enumerate(groups) if i != place and not other.isdisjoint(ops)]

    def _merge(self, groups: list[Group]) -> list[Group] | None:
        place = self.random.randrange(len(groups))
        near = self._near(groups, place)
        if not near:
            return None
        other = self.random.choice(near)
        joined = groups[place] | groups[other]
        if len(joined) > LARGEST or not self._alike(joined):
            return None
        return self._placed([g for i, g in enumerate(groups) if i not in (place, other)], joined, min(place, other))

    def _alike(self, group: Group) -> bool:
        """Whether a group's results have one shape."""
        p = self.problem
        return len({p.shape(t) for t in self.sequences.sinks(group)}) == 1

    def _placed(self, groups: list[Group], group: Group, near: int) -> list[Group] | None:
        """A group put after all it reads and before all that read it; others are moved out of its way."""
        needs = self.sequences.external(group)
        made = self.sequences.made(group)
        first = 0
        for place, other in enumerate(groups):
            if not self.sequences.made(other).isdisjoint(needs):
                first = place + 1
        last = next(
            (i for i, other in enumerate(groups) if not self.sequences.external(other).isdisjoint(made)), len(groups)
        )
        if first <= last:
            place = min(max(near, first), last)
            return [*groups[:place], group, *groups[place:]]
        return self._sorted([*groups, group])

    def _sorted(self, groups: list[Group]) -> list[Group] | None:
        """Groups in an order in which each finds what it reads, as close to the given one as can be."""
        waiting = list(groups)
        maker: dict[int, set[int]] = {}
        for i, group in enumerate(waiting):
            for tensor in self.sequences.made(group):
                maker.setdefault(tensor, set()).add(i)
        done: set[int] = set()
        order: list[Group] = []
        while len(order) < len(waiting):
            for i, group in enumerate(waiting):
                if i not in done and all(maker[t] & done for t in self.sequences.external(group)):
                    done.add(i)
                    order.append(group)
                    break
            else:
                return None
        return order

    def _split(self, groups: list[Group]) -> list[Group] | None:
        place = self.random.randrange(len(groups))
        group = groups[place]
        if len(group) < 2:
            return None
        ordered = [op for op in self.problem.order if op in group]
        cut = self.random.randrange(1, len(ordered))
        if self.random.random() < 0.5:  # by reach rather than by rank: what one operator needs
            seed = self.random.choice(ordered)
            first = self._upstream(seed, group)
            if len(first) == len(group):
                return None
        else:
            first = frozenset(ordered[:cut])
        return [*groups[:place], first, group - first, *groups[place + 1 :]]

    def _upstream(self, op: int, group: Group) -> Group:
        found, stack = {op}, [op]
        while stack:
            for before in self.problem.before[stack.pop()]:
                if before in group and before not in found:
                    found.add(before)
                    stack.append(before)
        return frozenset(found)

    def _hand_over(self, groups: list[Group]) -> list[Group] | None:
        place = self.random.randrange(len(groups))
        near = self._near(groups, place)
        if not near:
            return None
        other = self.random.choice(near)
        op = self.random.choice(sorted(groups[place]))
        if op in groups[other] or len(groups[other]) >= LARGEST:
            return None
        left = groups[place] - {op}
        changed = list(groups)
        changed[other] = groups[other] | {op}
        changed[place] = left
        return self._sorted([group for group in changed if group])

    def _shift(self, groups: list[Group]) -> list[Group] | None:
        place = self.random.randrange(len(groups))
        group = groups[place]
        rest = [*groups[:place], *groups[place + 1 :]]
        near = self.random.randrange(len(rest) + 1)
        return self._placed(rest, group, near)

    def _repeat(self, groups: list[Group]) -> list[Group] | None:
        """Let a group compute anew what it reads."""
        place = self.random.randrange(len(groups))
        reads = sorted(self.sequences.external(groups[place]))
        if not reads:
            return None
        op = self.problem.maker[self.random.choice(reads)]
        changed = list(groups)
        changed[place] = groups[place] | {op}
        if self.random.random() < 0.5:  # nobody else may need it where it was
            at = next((i for i, group in enumerate(groups) if op in group and i != place), None)
            if at is not None:
                changed[at] = groups[at] - {op}
        return [group for group in changed if group]

    def _rebuild(self, groups: list[Group]) -> list[Group] | None:
        """Cut the operators of a few neighbouring groups anew, in another order."""
        count = self.random.randint(2, WINDOW)
        place = self.random.randrange(max(1, len(groups) - count + 1))
        window = groups[place : place + count]
        ops = frozenset().union(*window)
        if len(ops) > MOST_REBUILT or sum(map(len, window)) > len(ops):
            return None
        roots = [op for op in self.problem.order if op in ops]
        self.random.shuffle(roots)
        order = _depth_first(self.sequences, roots, ops)
        found = cut_order(self.sequences, order, longest=len(order))
        return None if found is None else [*groups[:place], *found.groups, *groups[place + count :]]

    def _drop(self, groups: list[Group]) -> list[Group] | None:
        """Take back an operator that runs more than once."""
        counted: dict[int, int] = {}
        for group in groups:
            for op in group:
                counted[op] = counted.get(op, 0) + 1
        twice = [op for op, number in counted.items() if number > 1]
        if not twice:
            return None
        op = self.random.choice(twice)
        place = self.random.choice([i for i, group in enumerate(groups) if op in group])
        changed = list(groups)
        changed[place] = groups[place] - {op}
        return [group for group in changed if group]


def siblings_joined(sequences: Sequences, start: Chosen) -> Chosen:
    """Groups that share an input put together wherever that is cheaper, largest inputs first."""
    p = sequences.problem
    annealer = Annealer(sequences, 0, lambda: 0.0)
    best = start
    improved = True
    while improved:
        improved = False
        shared = sorted(p.readers, key=lambda t: -p.size(t) * len(p.readers[t]))
        for tensor in shared:
            places = [i for i, group in enumerate(best.groups) if any(tensor in p.inputs[op] for op in group)]
            if len(places) < 2:
                continue
            candidates = [places, places[:2], places[: len(places) // 2]]
            for chosen in candidates:
                joined = frozenset().union(*(best.groups[i] for i in chosen))
                if len(chosen) < 2 or len(joined) > LARGEST or not connected(p, joined):
                    continue
                rest = [group for i, group in enumerate(best.groups) if i not in chosen]
                proposed = annealer._placed(rest, joined, chosen[0])
                found = sequences.evaluate(proposed, best.latency) if proposed is not None else None
                if found is not None and found.latency < best.latency * (1 - 1e-12):
                    best, improved = found, True
                    break
    return best


def siblings_first(sequences: Sequences, seed: int, should_stop: Callable[[], bool]) -> list[Chosen]:
    """All products that read one input in one step, and the cuts of what lies before and after it."""
    p = sequences.problem
    found = []
    for tensor in sorted(p.readers, key=lambda t: -p.size(t) * len(p.readers[t])):
        siblings = [op for op in p.readers[tensor] if p.op_types[op] is Kind.MATMUL]
        if tensor in p.maker or len(siblings) < LEAST_SIBLINGS or should_stop():
            continue
        group = frozenset(siblings)
        above = frozenset().union(*(p.ancestors[op] for op in group))
        if not above.isdisjoint(group) or len(group) > LARGEST or sequences.price(group, NOTHING, NOTHING) is None:
            continue
        for roots in _roots(p, seed)[:3]:
            before = _depth_first(sequences, [op for op in roots if op in above], above)
            rest = frozenset(range(p.count)) - above - group
            after = _depth_first(sequences, [op for op in roots if op in rest], rest)
            cuts = [
                cut_order(sequences, order, should_stop=should_stop) if order else None for order in (before, after)
            ]
            if any(order and cut is None for order, cut in zip((before, after), cuts, strict=True)):
                continue
            groups = [*(cuts[0].groups if cuts[0] else ()), group, *(cuts[1].groups if cuts[1] else ())]
            chosen = sequences.evaluate(groups)
            if chosen is not None:
                found.append(chosen)
    return found


LEAST_SIBLINGS = 3
"""Products that share an input, from which on a step of their own is tried."""


def _roots(p: SubgraphProblem, seed: int) -> list[list[int]]:
    """Orders in which to walk back from operators: from the end, from the start, and drawn."""
    found = [list(reversed(p.order)), list(p.order)]
    draw = random.Random(seed)
    for _ in range(6):
        mixed = list(p.order)
        draw.shuffle(mixed)
        found.append(mixed)
    return found


def orders(sequences: Sequences, seed: int) -> list[list[int]]:
    """Topological orders worth cutting: breadth first, depth first from either end, and drawn at random."""
    p = sequences.problem
    deep = [_depth_first(sequences, roots, heavy=heavy) for roots in _roots(p, seed) for heavy in (True, False)]
    return [list(p.order), *deep]


def _depth_first(
    sequences: Sequences, roots: Sequence[int], within: Group | None = None, heavy: bool = True
) -> list[int]:
    """Operators depth first from what they read; of some alone where these are given.

    ``heavy``: of what an operator reads, that with most operators behind it comes first, so that the others' results
    have less to wait (Sethi and Ullman, J. ACM 17, 1970); else that with the lowest number.
    """
    p = sequences.problem
    weight = p.ancestors
    done: list[int] = []
    seen: set[int] = set()
    for root in roots:
        stack = [(root, False)]
        while stack:
            op, ready = stack.pop()
            if ready:
                done.append(op)
            elif op not in seen:
                seen.add(op)
                stack.append((op, True))
                needed = p.before[op] if within is None else p.before[op] & within
                ranked = sorted(needed, key=lambda o: (len(weight[o]), -o)) if heavy else sorted(needed, reverse=True)
                stack += [(before, False) for before in ranked if before not in seen]
    return done


def starts(sequences: Sequences, seed: int, should_stop: Callable[[], bool]) -> list[Chosen]:
    """Sequences to start from, best first: the cuts of several orders, with siblings joined."""
    found = []
    for order in orders(sequences, seed):
        chosen = cut_order(sequences, order, should_stop=should_stop)
        if chosen is not None:
            found.append(chosen)
        if should_stop():
            break
    if not should_stop():
        found += siblings_first(sequences, seed, should_stop)
    if not found:
        alone = [frozenset((op,)) for op in sequences.problem.order]
        chosen = sequences.evaluate(alone)
        if chosen is not None:
            found.append(chosen)
    return sorted(found, key=lambda item: item.latency)
