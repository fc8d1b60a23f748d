"""What an operator takes (ns) when its tensors lie in fast or in slow memory, the program's order given.

    time_o = max(compute_o, sum of the times to move each operand and result)

A tensor moves at the rate of the memory in which it lies. One from outside comes from slow memory at its first use in
any case, and an output goes there; what is made inside and lies in fast memory never leaves it. The problem: Wang et
al., "Optimizing Memory Mapping Using Deep Reinforcement Learning", arXiv 2305.07440, without copies in mid-life.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from instances.replacement import Part, Problem


class Timing:
    """Times of a problem's operators, by which tensors are fast."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._first = {name: users[0] for name, users in problem.readers.items() if users and name not in problem.maker}

    def moved_ns(self, operator: int, tensor: str, fast: bool) -> int:
        """Time to move one operand or result."""
        problem = self._problem
        comes = self._first.get(tensor) == operator
        goes = problem.maker.get(tensor) == operator and problem.tensor[tensor].part is Part.OUTPUT
        rate = problem.fast_bytes_per_ns if fast and not (comes or goes) else problem.slow_bytes_per_ns
        return math.ceil(problem.tensor[tensor].size_bytes / rate)

    def operands(self, operator: int) -> list[str]:
        """Tensors that an operator touches, each once."""
        one = self._problem.operators[operator]
        return list(dict.fromkeys((*one.reads, *one.writes)))

    def operator_ns(self, operator: int, fast: Collection[str]) -> int:
        """Time of an operator."""
        moved = sum(self.moved_ns(operator, name, name in fast) for name in self.operands(operator))
        return max(self._problem.operators[operator].compute_ns, moved)

    def total_ns(self, fast: Collection[str]) -> int:
        """Time of all operators, one after the other."""
        return sum(self.operator_ns(i, fast) for i in range(len(self._problem.operators)))

    def life(self, tensor: str) -> tuple[int, int]:
        """First and last step at which a tensor is touched."""
        made = self._problem.maker.get(tensor)
        steps = [*([] if made is None else [made]), *self._problem.readers[tensor]]
        return min(steps), max(steps)

    def gain_ns(self, tensor: str) -> int:
        """What a tensor in fast memory saves at most: time to move, over all that touch it."""
        made = self._problem.maker.get(tensor)
        users = [*([] if made is None else [made]), *self._problem.readers[tensor]]
        return sum(self.moved_ns(i, tensor, False) - self.moved_ns(i, tensor, True) for i in users)
