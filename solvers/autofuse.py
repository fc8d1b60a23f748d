"""The fusion rules that CANN publishes for AutoFuse, for comparison: element-wise and reducing vector operators only.

In at most :data:`ROUNDS` rounds, pairs of groups that share memory traffic are merged: the pair first that saves most
bytes, of equals the one whose groups lie closest in topological order; as long as a group has at most
:data:`MOST_NODES` nodes and the peak of live memory does not rise. Cube kernels and collectives stay alone. What may
run as one kernel at all is what the instance offers as a candidate, so that groups end where ``instances.fusion`` ends
them. Kernels run one after the other; results stay in L2 while they fit.

Rules: hicann/ge, ``docs/zh/user_guides/graph_dev/autofuse``.
"""

from __future__ import annotations

from itertools import combinations

from formulations.facts import Facts
from formulations.plan import Decisions
from instances.instance import Instance
from instances.kernels import KernelKind
from solvers.interface import Options, Result
from solvers.sequential import bytes_saved, cover_in_turn, finish, keep_what_fits

MOST_NODES = 64
"""Largest number of operators in a group."""

ROUNDS = 10
"""Rounds of merging."""


def solve_autofuse(instance: Instance, options: Options) -> Result:
    """The published rules of AutoFuse, one kernel after the other."""
    return finish(instance, options, "autofuse", autofuse_decisions(Facts(instance)))


def autofuse_decisions(facts: Facts) -> Decisions:
    """What AutoFuse would launch, in line."""
    return keep_what_fits(facts, autofuse_groups(facts))


def autofuse_groups(facts: Facts) -> list[int]:
    """Candidates that the rules arrive at, covering every operator once, in an order that respects precedence."""
    merging = _Merging(facts)
    for _ in range(ROUNDS):
        if not merging.round():
            break
    fused = set(merging.home.values())
    alone = [g for g, candidate in enumerate(facts.instance.candidates) if len(candidate.operators) == 1]
    return cover_in_turn(facts, [*sorted(fused), *(g for g in alone if g not in fused)])


class _Merging:
    """The groups as they grow; operator names map to the candidate that holds them."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        candidates = facts.instance.candidates
        self._number = {
            frozenset(candidate.operators): g
            for g, candidate in enumerate(candidates)
            if len(candidate.operators) <= MOST_NODES and facts.kind(candidate) is KernelKind.VECTOR
        }
        self._saved = {g: bytes_saved(facts, candidates[g]) for g in self._number.values()}
        self.home = {
            name: self._number[frozenset((name,))] for name in facts.order if frozenset((name,)) in self._number
        }
        self._born = {t: facts.order[maker] for t, maker in facts.graph.producer.items()}
        self._dies = {
            t: max((facts.order[c] for c in facts.graph.consumers[t]), default=b) for t, b in self._born.items()
        }
        self._live = [0] * len(facts.order)
        for t in self._born:
            self._count(t, 1)
        self._peak = max(self._live, default=0)

    def round(self) -> bool:
        """Merge each group at most once; whether any two were."""
        pairs: dict[frozenset[int], tuple[int, int, int]] = {}
        for t in self._facts.graph.tensor:
            around = [*self._facts.graph.consumers[t]]
            if t in self._facts.graph.producer:
                around.append(self._facts.graph.producer[t])
            groups = sorted({self.home[name] for name in around if name in self.home})
            for one, other in combinations(groups, 2):
                merged = self._number.get(self._members(one) | self._members(other))
                if merged is not None:
                    gain = self._saved[merged] - self._saved[one] - self._saved[other]
                    pairs[frozenset((one, other))] = (-gain, abs(self._place(one) - self._place(other)), merged)
        done: set[int] = set()
        for pair, (loss, _, merged) in sorted(pairs.items(), key=lambda item: item[1]):
            if loss < 0 and done.isdisjoint(pair) and self._peak_stays(merged):
                done |= pair
                self.home.update(dict.fromkeys(self._members(merged), merged))
        return bool(done)

    def _members(self, g: int) -> frozenset[str]:
        return frozenset(self._facts.instance.candidates[g].operators)

    def _place(self, g: int) -> int:
        """Position at which a group runs: that of its last operator."""
        return max(self._facts.order[name] for name in self._members(g))

    def _count(self, t: str, sign: int) -> None:
        for place in range(self._born[t], self._dies[t] + 1):
            self._live[place] += sign * self._facts.graph.tensor[t].size_bytes

    def _peak_stays(self, g: int) -> bool:
        """Whether the peak of live bytes does not rise when a group runs as one; if so, it is taken to do so.

        Its results are born where it runs, what it reads lives until then, what stays inside is never there.
        """
        candidate, place = self._facts.instance.candidates[g], self._place(g)
        operators = [self._facts.graph.operator[name] for name in candidate.operators]
        written = {access.tensor for operator in operators for access in operator.writes}
        touched = sorted(written | {t for t in candidate.reads if t in self._born})
        before = {t: (self._born[t], self._dies[t]) for t in touched}
        for t in touched:
            self._count(t, -1)
            if t not in written:
                self._dies[t] = max(self._dies[t], place)
            elif t in candidate.writes:
                self._born[t] = place
                self._dies[t] = max(self._dies[t], place)
            else:
                self._born[t], self._dies[t] = place, place - 1
            self._count(t, 1)
        if max(self._live) <= self._peak:
            return True
        for t, (born, dies) in before.items():
            self._count(t, -1)
            self._born[t], self._dies[t] = born, dies
            self._count(t, 1)
        return False
