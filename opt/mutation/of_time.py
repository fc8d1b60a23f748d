"""Mistakes in times: of kernels, of their phases on the channel, of moves, and of the whole."""

from __future__ import annotations

from itertools import combinations

from instances.kernels import KernelKind
from opt.mutation.wound import Data, NoPlaceError, Scene, Wound, kind, label, shift


def _phased(scene: Scene) -> list[Data]:
    return [kernel for kernel in scene.kernels if kernel["hbm_start_ns"] is not None]


def _still(scene: Scene) -> list[Data]:
    return [kernel for kernel in scene.kernels if kernel["hbm_start_ns"] is None]


@kind
def start_shifted_by_1_ns(scene: Scene) -> Wound:
    """A kernel without a phase, so that nothing but its start decides when it ends."""
    kernel = scene.one_of(_still(scene))
    by = scene.either(-1, 1) if kernel["start_ns"] else 1
    kernel["start_ns"] += by
    return Wound(("duration",), label(kernel), -by)


@kind
def end_shifted_by_1_ns(scene: Scene) -> Wound:
    kernel, by = scene.one_of(scene.kernels), scene.either(-1, 1)
    kernel["end_ns"] += by
    return Wound(("duration",), label(kernel), by)


@kind
def start_before_the_input_is_complete(scene: Scene) -> Wound:
    kernel, read = scene.one_of((k, r) for k, r in scene.readers if r["tensor"] in scene.maker)
    early = kernel["start_ns"] - scene.maker[read["tensor"]]["end_ns"] + 1
    if early > kernel["start_ns"]:
        raise NoPlaceError("the input is complete at once")
    shift(kernel, -early)
    return Wound(("precedence",), f"{label(kernel)}: {read['tensor']}", 1)


@kind
def phase_1_ns_off(scene: Scene) -> Wound:
    kernel = scene.one_of(_phased(scene))
    by = scene.either(-1, 1)
    kernel["hbm_ns"] += by
    return Wound(("hbm_phase",), label(kernel), by)


@kind
def phase_during_the_launch(scene: Scene) -> Wound:
    kernel = scene.one_of(_phased(scene))
    kernel["hbm_start_ns"] = kernel["start_ns"]
    return Wound(("hbm_phase",), label(kernel))


@kind
def phase_left_out(scene: Scene) -> Wound:
    kernel = scene.one_of(_phased(scene))
    kernel.update(hbm_start_ns=None, hbm_ns=0)
    return Wound(("hbm_phase",), label(kernel))


@kind
def phase_without_traffic(scene: Scene) -> Wound:
    kernel = scene.one_of(_still(scene))
    kernel.update(hbm_start_ns=kernel["end_ns"], hbm_ns=1)
    return Wound(("hbm_phase",), label(kernel), 1)


@kind
def latency_misreported(scene: Scene) -> Wound:
    by = scene.either(-1, 1)
    scene.data["latency_ns"] += by
    return Wound(("latency",), "schedule", -by)


@kind
def move_1_ns_off(scene: Scene) -> Wound:
    move, by = scene.one_of(scene.moves), scene.either(-1, 1)
    move["end_ns"] += by
    return Wound(("move",), f"{move['kind']} of {move['tensor']}", by)


@kind
def channel_used_twice_by_moves(scene: Scene) -> Wound:
    one, other = scene.one_of(combinations(scene.moves, 2))
    length, begin = other["end_ns"] - other["start_ns"], one["end_ns"] - 1
    for stay in scene.stays:
        if other["kind"] != "spill" and (stay["tensor"], stay["start_ns"]) == (other["tensor"], other["start_ns"]):
            stay.update(start_ns=begin, end_ns=max(stay["end_ns"], begin + length))
    other.update(start_ns=begin, end_ns=begin + length)
    return Wound(("channel",), other["tensor"])


@kind
def channel_used_twice_by_kernels(scene: Scene) -> Wound:
    one, other = scene.one_of(combinations([k for k in _phased(scene) if k["hbm_ns"] > 1], 2))
    other["hbm_start_ns"] = one["hbm_start_ns"] + one["hbm_ns"] - 1
    return Wound(("channel",), label(other))


@kind
def channel_used_twice_by_kernel_and_move(scene: Scene) -> Wound:
    kernel = scene.one_of(k for k in _phased(scene) if k["hbm_ns"] > 1)
    move = scene.one_of(scene.moves)
    kernel["hbm_start_ns"] = move["end_ns"] - 1
    return Wound(("channel",), label(kernel))


@kind
def link_used_twice(scene: Scene) -> Wound:
    links = [kernel for kernel in scene.kernels if kernel["kind"] == KernelKind.LINK.value]
    one, other = scene.one_of(combinations(links, 2))
    shift(other, one["end_ns"] - 1 - other["start_ns"])
    return Wound(("link",), label(other))


@kind
def prefetch_ends_1_ns_after_the_reader_starts(scene: Scene) -> Wound:
    readers = scene.readers
    move, kernel = scene.one_of(
        (move, kernel)
        for move in scene.moves
        if move["kind"] != "spill"
        for kernel, read in readers
        if read["tensor"] == move["tensor"] and read["source"] == "l2" and kernel["start_ns"] >= move["end_ns"]
    )
    stay, late = scene.stay_of(move), kernel["start_ns"] + 1 - move["end_ns"]
    if stay["end_ns"] < kernel["end_ns"]:
        raise NoPlaceError("another stay serves this reader")
    shift(move, late)
    stay["start_ns"] += late
    return Wound(("l2_read",), f"{label(kernel)}: {move['tensor']}")


@kind
def spill_before_the_tensor_is_made(scene: Scene) -> Wound:
    move = scene.one_of(m for m in scene.moves if m["kind"] == "spill")
    shift(move, scene.maker[move["tensor"]]["end_ns"] - 1 - move["start_ns"])
    return Wound(("spill",), f"spill of {move['tensor']}", 1)
