"""Which axes of which tensors are the same loop: atoms, the factors that views split and reorder.

Every axis of every tensor is a product of atoms. A view regroups atoms, an elementwise operator makes those of its
operands one, a contraction pairs those it sums over. What is left at the end, one class of atoms per loop, are the loop
dimensions by which operators can be tiled together; no names are needed to find them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class UnalignedError(Exception):
    """Axes that no common refinement or no unification exists for; the caller copies instead."""


class Atom:
    """A factor of an axis. Atoms found to be the same loop share a representative; one that was split has factors."""

    __slots__ = ("_apart", "_factors", "_parts", "_same", "extent", "hint", "part_of")

    def __init__(self, extent: int, hint: str = "", part_of: tuple[Atom, int, int] | None = None) -> None:
        self.extent = extent
        self.hint = hint
        self.part_of = part_of  # the atom this very one is a stretch of, its first element and its step
        self._same: Atom | None = None
        self._factors: tuple[Atom, ...] | None = None
        self._apart: list[Atom] = []
        self._parts: dict[tuple[int, int, int], Atom] = {}

    def root(self) -> Atom:
        """The representative of all atoms that are the same loop."""
        atom = self
        while atom._same is not None:
            atom = atom._same
        return atom

    def leaves(self) -> list[Atom]:
        """The representatives of the factors it was split into; itself where it was not. Extents of one vanish."""
        top = self.root()
        if top._factors is not None:
            return [leaf for factor in top._factors for leaf in factor.leaves()]
        return [top] if top.extent > 1 else []

    def split(self, inner: int) -> None:
        """Make it an outer factor and one of ``inner`` elements."""
        top = self.root()
        factors = Atom(top.extent // inner, top.hint), Atom(inner, top.hint)
        for factor in factors:
            factor._apart = list(top._apart)
        factors[0]._apart.append(factors[1])
        factors[1]._apart.append(factors[0])
        top._factors = factors

    def part(self, start: int, count: int, step: int) -> Atom:
        """The stretch of ``count`` elements from ``start``: the same atom each time it is asked for."""
        top = self.root()
        key = (start, count, step)
        if key not in top._parts:
            top._parts[key] = Atom(count, top.hint, (top, start, step))
            keep_apart([top._parts[key]], [top])
        return top._parts[key]

    def is_apart(self, other: Atom) -> bool:
        """Whether the two were declared to be different loops."""
        mine, theirs = self.root(), other.root()
        return any(theirs in _family(atom) for atom in mine._apart) or any(
            mine in _family(atom) for atom in theirs._apart
        )

    def join(self, other: Atom) -> None:
        """Make two unsplit atoms of one extent the same loop."""
        mine, theirs = self.root(), other.root()
        if mine is theirs:
            return
        theirs._same = mine
        mine.hint = mine.hint or theirs.hint
        mine._apart = list({id(atom.root()): atom.root() for atom in (*mine._apart, *theirs._apart)}.values())
        for key, part in theirs._parts.items():
            if key in mine._parts and mine._parts[key].root() is not part.root():
                unify([mine._parts[key]], [part])
            mine._parts.setdefault(key, part)


def _family(atom: Atom) -> list[Atom]:
    top = atom.root()
    return [top, *top.leaves()]


Axis = list[Atom]


def leaves(atoms: Iterable[Atom]) -> list[Atom]:
    """The leaves of a sequence of atoms, in order."""
    return [leaf for atom in atoms for leaf in atom.leaves()]


def extent(atoms: Iterable[Atom]) -> int:
    """Elements along an axis."""
    return math.prod(leaf.extent for leaf in leaves(atoms))


def hint(atoms: Iterable[Atom], name: str) -> None:
    """Suggest a name for what an axis runs over; the first suggestion stays."""
    for leaf in leaves(atoms):
        leaf.hint = leaf.hint or name


def keep_apart(one: Iterable[Atom], other: Iterable[Atom]) -> None:
    """Declare that no loop of one is one of the other's: an operator runs over both."""
    others = leaves(other)
    for atom in leaves(one):
        atom._apart += [o for o in others if o is not atom]


def refine(one: Sequence[Atom], other: Sequence[Atom]) -> list[tuple[Atom, Atom]]:
    """Split the atoms of two axes of the same extent until they pair up, innermost first.

    :class:`UnalignedError` where no common refinement exists.
    """
    left, right = leaves(one), leaves(other)
    pairs: list[tuple[Atom, Atom]] = []
    while left and right:
        for side in (left, right):  # the same atom may stand on both sides, and have been split from the other
            side[-1:] = side[-1].leaves()
        a, b = left[-1], right[-1]
        if a.extent == b.extent:
            pairs.append((a, b))
            left.pop()
            right.pop()
        elif a.extent % b.extent == 0:
            a.split(b.extent)
            left[-1:] = a.leaves()
        elif b.extent % a.extent == 0:
            b.split(a.extent)
            right[-1:] = b.leaves()
        else:
            raise UnalignedError
    if left or right:
        raise UnalignedError
    return pairs


def unify(one: Sequence[Atom], other: Sequence[Atom]) -> None:
    """Make two axes the same loops; :class:`UnalignedError`, with nothing joined, where they cannot be."""
    pairs = [(a.root(), b.root()) for a, b in refine(one, other)]
    if any(a.is_apart(b) for a, b in pairs if a is not b):
        raise UnalignedError
    for a, b in pairs:
        if not a.is_apart(b):
            a.join(b)


def unifiable(one: Sequence[Atom], other: Sequence[Atom]) -> bool:
    """:func:`unify`, and whether it could be done."""
    try:
        unify(one, other)
    except UnalignedError:
        return False
    return True


@dataclass(eq=False)
class Base:
    """A tensor that exists in memory: an input, or what an operator writes."""

    name: str
    axes: list[Axis]
    dtype: str
    role: str
    rows: str = ""  # what it is, for messages
    parent: tuple[Base, Atom, Atom] | None = None  # the tensor it is a stretch of, along which atom, which part


@dataclass(eq=False)
class View:
    """A way of looking at a tensor: its atoms regrouped, some of them in part, some repeated.

    ``parts`` maps an atom of the base, or of such a stretch, to the stretch of it that is seen.
    """

    base: Base
    axes: list[Axis]
    parts: dict[Atom, Atom] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the axes."""
        return tuple(extent(axis) for axis in self.axes)

    def reshaped(self, shape: Sequence[int]) -> View:
        """The same elements in row-major order under another shape; :class:`UnalignedError` where axes do not split."""
        queue = leaves(atom for axis in self.axes for atom in axis)
        axes: list[Axis] = []
        for wanted in shape:
            axis: Axis = []
            have = 1
            while have < wanted:
                if not queue:
                    raise UnalignedError
                atom = queue.pop(0)
                need = wanted // have
                if atom.extent > need:
                    if wanted % have or atom.extent % need:
                        raise UnalignedError
                    atom.split(atom.extent // need)
                    queue[:0] = atom.leaves()
                    continue
                axis.append(atom)
                have *= atom.extent
            if have != wanted:
                raise UnalignedError
            axes.append(axis)
        if queue:
            raise UnalignedError
        return View(self.base, axes, self.parts)

    def permuted(self, order: Sequence[int]) -> View:
        """Axes in another order."""
        return View(self.base, [self.axes[i] for i in order], self.parts)

    def expanded(self, shape: Sequence[int]) -> View:
        """Axes of one element repeated; new axes come in front."""
        padded: list[Axis] = [[] for _ in range(len(shape) - len(self.axes))] + self.axes
        if any(extent(axis) not in (1, wanted) and wanted != -1 for axis, wanted in zip(padded, shape, strict=True)):
            raise UnalignedError
        axes = [
            axis if wanted == -1 or wanted == extent(axis) else [Atom(wanted)]
            for axis, wanted in zip(padded, shape, strict=True)
        ]
        return View(self.base, axes, self.parts)

    def sliced(self, axis: int, start: int, count: int, step: int) -> View:
        """A stretch of one axis; :class:`UnalignedError` where it is not a stretch of one atom."""
        atoms = leaves(self.axes[axis])
        if count == math.prod(atom.extent for atom in atoms) and step == 1:
            return self
        if not atoms:
            raise UnalignedError
        inner = math.prod(atom.extent for atom in atoms[1:])
        if len(atoms) > 1 and (start % inner or count % inner or step != 1):
            raise UnalignedError
        atom = atoms[0]
        part = atom.part(start // inner, count // inner, step)
        known = {leaf for own in (*self.base.axes, list(self.parts.values())) for leaf in leaves(own)}
        if atom not in known:  # a repetition: fewer of them
            part = Atom(count // inner)
        parts = {**self.parts, atom: part} if atom in known else self.parts
        return View(self.base, [*self.axes[:axis], [part, *atoms[1:]], *self.axes[axis + 1 :]], parts)
