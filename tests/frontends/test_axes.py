"""Loops: views against numpy's index arrays, what is one loop and what never is."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances.frontends.axes import (
    Atom,
    Axis,
    Base,
    UnalignedError,
    View,
    extent,
    hint,
    keep_apart,
    leaves,
    refine,
    unifiable,
    unify,
)
from instances.frontends.emission import _seen
from instances.frontends.lowering import Lowering, Use


def tensor(*shape: int) -> View:
    axes: list[Axis] = [[Atom(size)] for size in shape]
    for one, other in pairwise(axes):
        keep_apart(one, other)
    return Lowering.whole(Base("t", axes, "bfloat16", "input"))


def touched(view: View) -> Fraction:
    """Share of the tensor that a read through a view touches."""
    axes, share = _seen(Use(view))
    assert Fraction(math.prod(map(extent, axes)), math.prod(map(extent, view.base.axes))) == share
    return share


SIZES = st.sampled_from([1, 2, 3, 4, 6, 8, 12])


def factorings(size: int, draw: st.DrawFn) -> list[int]:
    """A shape of as many elements."""
    shape = []
    while size > 1 and len(shape) < 4:
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        size //= shape[-1]
    return [*shape, size] if size > 1 or not shape else shape


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_views_against_numpy(data: st.DataObject) -> None:
    """Any sequence of views that can be expressed has numpy's shape and touches the elements that numpy's does."""
    shape = data.draw(st.lists(SIZES, min_size=1, max_size=4))
    view, array = tensor(*shape), np.arange(math.prod(shape)).reshape(shape)
    for _ in range(data.draw(st.integers(1, 6))):
        what = data.draw(st.sampled_from(["reshape", "permute", "slice", "expand"]))
        try:
            if what == "reshape":
                wanted = factorings(array.size, data.draw)
                view, array = view.reshaped(wanted), array.reshape(wanted)
            elif what == "permute":
                order = data.draw(st.permutations(range(array.ndim)))
                view, array = view.permuted(order), array.transpose(order)
            elif what == "expand":
                wanted = [data.draw(SIZES) if size == 1 else size for size in (1, *array.shape)]
                if math.prod(wanted) > 10**4:
                    continue
                view, array = view.expanded(wanted), np.broadcast_to(array, wanted)
            else:
                axis = data.draw(st.integers(0, array.ndim - 1))
                start = data.draw(st.integers(0, array.shape[axis] - 1))
                step = data.draw(st.sampled_from([1, 1, 1, 2]))
                end = data.draw(st.integers(start + 1, array.shape[axis]))
                cut = array[(slice(None),) * axis + (slice(start, end, step),)]
                view, array = view.sliced(axis, start, cut.shape[axis], step), cut
        except UnalignedError:
            continue
        assert view.shape == array.shape
        assert touched(view) == Fraction(len(np.unique(array)), math.prod(shape))


@settings(max_examples=200, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=4), st.data())
def test_a_tensor_without_a_cut_has_any_shape_of_its_factors(shape: list[int], data: st.DataObject) -> None:
    """Splitting and merging one axis at a time can always be expressed."""
    view = tensor(*shape)
    split = [size for whole in shape for size in factorings(whole, data.draw)]
    there = view.reshaped(split)
    assert there.shape == tuple(split)
    assert there.reshaped(shape).shape == tuple(shape)
    assert view.reshaped([math.prod(shape)]).shape == (math.prod(shape),)


@pytest.mark.parametrize(
    ("shape", "wanted"), [((6, 4), (4, 6)), ((3, 5), (5, 3)), ((8,), (2, 3)), ((8,), (2, 8)), ((2, 2), (3,))]
)
def test_shapes_that_cut_across_loops(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    with pytest.raises(UnalignedError):
        tensor(*shape).reshaped(wanted)


@pytest.mark.parametrize(("wanted"), [(3, 4), (2, 8)])
def test_only_axes_of_one_element_are_repeated(wanted: tuple[int, ...]) -> None:
    with pytest.raises(UnalignedError):
        tensor(2, 4).expanded(wanted)


def test_a_stretch_of_a_stretch_and_of_its_factors() -> None:
    view = tensor(4, 48)
    middle = view.sliced(1, 16, 16, 1)
    assert touched(middle) == Fraction(1, 3)
    assert touched(middle.sliced(1, 4, 4, 1)) == Fraction(1, 12)
    heads = middle.reshaped([4, 2, 8])
    assert touched(heads) == Fraction(1, 3)
    assert touched(heads.sliced(2, 0, 4, 1)) == Fraction(1, 6)
    assert touched(heads.sliced(1, 1, 1, 1).sliced(2, 0, 2, 1)) == Fraction(1, 24)
    assert touched(view) == 1


def test_the_same_stretch_is_the_same_loop() -> None:
    view = tensor(4, 48)
    one, other, third = (view.sliced(1, start, 16, 1).axes[1][0].root() for start in (16, 16, 0))
    assert one is other
    assert one is not third
    assert not unifiable([one], view.axes[1])


def test_stretches_of_loops_that_become_one_become_one() -> None:
    one, other = tensor(4, 48), tensor(4, 48)
    first, second = one.sliced(1, 0, 16, 1).axes[1], other.sliced(1, 0, 16, 1).axes[1]
    unify(one.axes[1], other.axes[1])
    assert leaves(first) == leaves(second)


@settings(max_examples=300, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=4), st.lists(SIZES, min_size=1, max_size=4))
def test_unification_keeps_extents(one: list[int], other: list[int]) -> None:
    left, right = [Atom(size) for size in one], [Atom(size) for size in other]
    joined = unifiable(left, right)
    assert (extent(left), extent(right)) == (math.prod(one), math.prod(other))
    if joined:
        assert extent(left) == extent(right)
        assert leaves(left) == leaves(right)
    if math.prod(one) != math.prod(other):
        assert not joined
        assert not set(leaves(left)) & set(leaves(right))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_loops_that_are_kept_apart_never_become_one(data: st.DataObject) -> None:
    """Whatever is unified, in whatever order: atoms declared apart, and their factors, stay different loops."""
    atoms = [Atom(size) for size in data.draw(st.lists(st.sampled_from([4, 8, 8, 16]), min_size=3, max_size=7))]
    apart = data.draw(st.lists(st.tuples(*[st.integers(0, len(atoms) - 1)] * 2), min_size=1, max_size=5))
    apart = [(a, b) for a, b in apart if a != b]
    for a, b in apart:
        keep_apart([atoms[a]], [atoms[b]])
    groups = st.lists(st.integers(0, len(atoms) - 1), min_size=1, max_size=2, unique=True)
    for _ in range(data.draw(st.integers(1, 12))):
        unifiable([atoms[i] for i in data.draw(groups)], [atoms[i] for i in data.draw(groups)])
    for a, b in apart:
        assert not set(atoms[a].leaves()) & set(atoms[b].leaves())


def test_an_atom_on_both_sides_is_split_once() -> None:
    one, other = Atom(8), Atom(4)
    far = Atom(8)
    keep_apart([one], [far])
    unifiable([one], [one, other])
    factors = one.leaves()
    assert math.prod(atom.extent for atom in factors) == 8
    assert all(atom.is_apart(far) for atom in factors)


def test_refinement_splits_until_factors_pair_up() -> None:
    left, right = [Atom(4), Atom(6)], [Atom(8), Atom(3)]
    pairs = refine(left, right)
    assert [(a.extent, b.extent) for a, b in pairs] == [(3, 3), (2, 2), (4, 4)]
    with pytest.raises(UnalignedError):
        refine([Atom(4), Atom(6)], [Atom(6), Atom(4)])
    with pytest.raises(UnalignedError):
        refine([Atom(4)], [Atom(4), Atom(2)])


def test_the_first_hint_stays() -> None:
    axis = [Atom(4), Atom(8)]
    hint(axis[1:], "dim")
    hint(axis, "other")
    assert [atom.hint for atom in axis] == ["other", "dim"]
    one, other = Atom(4), Atom(4, "named")
    one.join(other)
    assert one.root().hint == "named"
