"""What every replacement model derives from the problem: sets as bit masks, ancestors, cuts, what an operator needs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

from instances.replacement import Part, Problem


def members(mask: int) -> Iterator[int]:
    """Numbers in a set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class Facts:
    """Operators and tensors by number; a set of either is an integer with those bits.

    A tensor is *shared* where it can matter from one step to another: one that is made and read, or read twice. The
    others (most weights, results that nobody reads) take room in one step and cost the same in every plan.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.count = len(problem.operators)
        self._bytes: dict[int, int] = {}
        self.names = [tensor.name for tensor in problem.tensors]
        number = {name: i for i, name in enumerate(self.names)}
        self.size = [tensor.size_bytes for tensor in problem.tensors]
        self.room = [problem.room(name) for name in self.names]
        self.maker = [problem.maker.get(name, -1) for name in self.names]
        self.readers = [sum(1 << i for i in problem.readers[name]) for name in self.names]
        self.outside = sum(1 << i for i, t in enumerate(problem.tensors) if t.part in (Part.INPUT, Part.WEIGHT))
        self.outputs = sum(1 << i for i, t in enumerate(problem.tensors) if t.part is Part.OUTPUT)
        self.reads = [sum(1 << number[name] for name in set(o.reads)) for o in problem.operators]
        self.writes = [sum(1 << number[name] for name in set(o.writes)) for o in problem.operators]
        self.touched = [reads | writes for reads, writes in zip(self.reads, self.writes, strict=True)]
        self.shared = sum(
            1 << t
            for t in range(len(self.names))
            if self.readers[t].bit_count() + (self.maker[t] >= 0) > 1 and self.readers[t]
        )
        self.touched_shared = [touched & self.shared for touched in self.touched]
        self.need = [self.bytes_of(touched) for touched in self.touched]
        self.before = [self._makers(reads) for reads in self.reads]

    def bytes_of(self, tensors: int) -> int:
        """Room that a set of tensors takes in the scratchpad."""
        found = self._bytes.get(tensors)
        if found is None:
            found = self._bytes[tensors] = sum(self.room[t] for t in members(tensors))
        return found

    def _makers(self, reads: int) -> int:
        return sum(1 << i for i in {self.maker[t] for t in members(reads)} if i >= 0)

    def live_after(self, done: int) -> int:
        """Shared tensors that are there once these operators have run, or were from the start, and are read later."""
        return sum(
            1 << t
            for t in members(self.shared)
            if self.readers[t] & ~done and (self.maker[t] < 0 or done >> self.maker[t] & 1)
        )

    @cached_property
    def ancestors(self) -> list[int]:
        """Operators that must run before each; the program's order is a topological one."""
        found: list[int] = []
        for i in range(self.count):
            mask = self.before[i]
            for j in members(self.before[i]):
                mask |= found[j]
            found.append(mask)
        return found

    @cached_property
    def descendants(self) -> list[int]:
        """Operators that must run after each."""
        found = [0] * self.count
        for i in range(self.count):
            for j in members(self.ancestors[i]):
                found[j] |= 1 << i
        return found

    @cached_property
    def bytes_moved_in(self) -> int:
        """Compulsory traffic inwards: what comes from outside, once."""
        return sum(self.size[t] for t in members(self.outside))

    @cached_property
    def cuts(self) -> list[int]:
        """Operators that split the problem: before or after every other, and all that is live after them is their own.

        What then lies in the scratchpad is known, so both sides can be decided apart, and their traffic adds up.
        """
        found = []
        for i in range(self.count):
            done = self.ancestors[i] | 1 << i
            if done.bit_count() + self.descendants[i].bit_count() < self.count:
                continue
            if not self.live_after(done) & ~self.writes[i]:
                found.append(i)
        return found

    @cached_property
    def segments(self) -> list[tuple[int, int]]:
        """Sets of operators that have run at the start and at the end of each part between cuts."""
        ends = [self.ancestors[i] | 1 << i for i in self.cuts]
        whole = (1 << self.count) - 1
        marks = sorted({0, whole, *ends}, key=int.bit_count)
        return list(pairwise(marks))
