"""Mistakes in kernels: which operators, on which cores, in which tiles and buffers."""

from __future__ import annotations

from itertools import combinations, product

from instances.costs import Misfit, price
from instances.kernels import KernelKind, Tiling
from instances.machine import MemoryName
from opt.mutation.wound import Data, NoPlaceError, Scene, Wound, kind, label


@kind
def operator_covered_twice(scene: Scene) -> Wound:
    kernel = scene.one_of(scene.kernels)
    scene.data["kernels"].append(kernel)
    return Wound(("cover",), kernel["operators"][0], 1)


@kind
def operator_not_covered(scene: Scene) -> Wound:
    kernel = scene.one_of(k for k in scene.kernels if len(scene.kernels) > 1)
    scene.data["kernels"].remove(kernel)
    return Wound(("cover",), kernel["operators"][-1], 1)


@kind
def operator_unknown(scene: Scene) -> Wound:
    scene.one_of(scene.kernels)["operators"].append("no such operator")
    return Wound(("cover",), "no such operator", 1)


@kind
def group_not_allowed(scene: Scene) -> Wound:
    """Two kernels made one, where the rules of fusion forbid it: not convex, across a collective, too many outputs."""
    order = {name: i for i, name in enumerate(scene.graph.operator)}
    pairs = list(combinations(scene.kernels, 2))
    scene.chance.shuffle(pairs)
    for one, other in pairs:
        names = tuple(sorted((*one["operators"], *other["operators"]), key=order.__getitem__))
        if scene.fuser.judge(names) is None:
            scene.data["kernels"].remove(other)
            one["operators"] = list(names)
            return Wound(("group",), label(one), len(names))
    raise NoPlaceError("every two kernels may be one")


@kind
def group_out_of_order(scene: Scene) -> Wound:
    kernel = scene.one_of(k for k in scene.kernels if len(k["operators"]) > 1)
    kernel["operators"].reverse()
    return Wound(("group",), label(kernel), 1)


@kind
def kind_wrong(scene: Scene) -> Wound:
    kernel = scene.one_of(scene.kernels)
    kernel["kind"] = scene.one_of(k.value for k in KernelKind if k.value != kernel["kind"])
    return Wound(("kind",), label(kernel), 1)


@kind
def rule_wrong(scene: Scene) -> Wound:
    kernel = scene.one_of(scene.kernels)
    kernel["rule"] = "attention" if kernel["rule"] != "attention" else "vector_chain"
    return Wound(("kind",), label(kernel), 1)


@kind
def read_not_listed(scene: Scene) -> Wound:
    kernel, read = scene.one_of(scene.readers)
    kernel["reads"].remove(read)
    return Wound(("reads",), label(kernel))


@kind
def write_not_listed(scene: Scene) -> Wound:
    kernel = scene.one_of(k for k in scene.kernels if k["writes"])
    kernel["writes"].pop()
    return Wound(("writes",), label(kernel))


@kind
def result_goes_nowhere(scene: Scene) -> Wound:
    kernel = scene.one_of(k for k in scene.kernels if k["writes"])
    write = scene.one_of(kernel["writes"])
    write.update(l2=False, hbm=False)
    return Wound(("writes",), f"{label(kernel)}: {write['tensor']}", 1)


# ------------------------------------------------------------------------------- cores


def _on_cores(scene: Scene, least: int) -> tuple[Data, str]:
    return scene.one_of(
        (kernel, ids) for kernel, ids in product(scene.kernels, ("aic_ids", "aiv_ids")) if len(kernel[ids]) >= least
    )


@kind
def core_count_one_short(scene: Scene) -> Wound:
    kernel, ids = _on_cores(scene, 1)
    kernel[ids].pop()
    return Wound(("core_count",), label(kernel), 1)


@kind
def core_count_one_over(scene: Scene) -> Wound:
    counts = {"aic_ids": scene.machine.aic_count, "aiv_ids": scene.machine.aiv_count}
    kernel, ids = scene.one_of(
        (kernel, ids) for kernel in scene.kernels for ids in counts if 0 < len(kernel[ids]) < counts[ids]
    )
    kernel[ids].append(scene.one_of(set(range(counts[ids])) - set(kernel[ids])))
    return Wound(("core_count",), label(kernel), 1)


@kind
def core_listed_twice(scene: Scene) -> Wound:
    kernel, ids = _on_cores(scene, 2)
    kernel[ids][-1] = kernel[ids][0]
    return Wound(("core_count",), label(kernel), 1)


@kind
def core_that_does_not_exist(scene: Scene) -> Wound:
    kernel, ids = _on_cores(scene, 1)
    beyond = scene.machine.aic_count if ids == "aic_ids" else scene.machine.aiv_count
    kernel[ids][-1] = beyond
    return Wound(("core_id",), label(kernel), beyond)


@kind
def core_shared_by_two_kernels(scene: Scene) -> Wound:
    one, other, ids = scene.one_of(
        (one, other, ids)
        for one, other in combinations(scene.kernels, 2)
        for ids in ("aic_ids", "aiv_ids")
        if one[ids] and other[ids] and one["start_ns"] < other["end_ns"] and other["start_ns"] < one["end_ns"]
    )
    other[ids][0] = one[ids][0]
    return Wound(("cores",), label(other))


@kind
def vector_core_of_another_cube_core(scene: Scene) -> Wound:
    per, present = scene.machine.aiv_per_aic, set(range(scene.machine.aiv_count))
    kernel, stranger = scene.one_of(
        (kernel, stranger)
        for kernel in scene.kernels
        if kernel["kind"] == KernelKind.MIX.value and kernel["aiv_ids"]
        for stranger in present - {aic * per + k for aic in kernel["aic_ids"] for k in range(per)}
    )
    kernel["aiv_ids"][-1] = stranger
    return Wound(("partners",), label(kernel), 1)


# ------------------------------------------------------------------------------- tiles


@kind
def tile_does_not_fit(scene: Scene) -> Wound:
    """A tile as large as its dimension, where that overflows a memory of the core."""
    places = [(kernel, axis) for kernel in scene.kernels for axis in kernel["tiling"]["tile"]]
    scene.chance.shuffle(places)
    for kernel, axis in places:
        fusion = scene.fuser.judge(tuple(kernel["operators"]))
        for factor in (2, 4, 16, 64):
            tile = {**kernel["tiling"]["tile"], axis: kernel["tiling"]["tile"][axis] * factor}
            try:
                price(fusion, scene.machine, Tiling(**{**kernel["tiling"], "tile": tile}))  # type: ignore[arg-type]
            except Misfit as misfit:
                if misfit.over_bytes > 0:
                    kernel["tiling"]["tile"] = tile
                    return Wound(("tiling",), f"{label(kernel)}: tiling does not fit", misfit.over_bytes)
    raise NoPlaceError("every tile fits, however large")


@kind
def tile_along_an_unknown_axis(scene: Scene) -> Wound:
    kernel = scene.one_of(k for k in scene.kernels if k["tiling"]["tile"])
    kernel["tiling"]["tile"]["nowhere"] = 16
    return Wound(("tiling",), label(kernel))


@kind
def no_share_of_the_l2_rate(scene: Scene) -> Wound:
    kernel = scene.one_of(scene.kernels)
    kernel["tiling"]["l2_permille"] = 0
    return Wound(("tiling",), label(kernel))


@kind
def l2_rate_handed_out_twice(scene: Scene) -> Wound:
    one, other = scene.one_of(
        (one, other)
        for one, other in combinations(scene.kernels, 2)
        if one["start_ns"] < other["end_ns"] and other["start_ns"] < one["end_ns"]
    )
    one["tiling"]["l2_permille"] = other["tiling"]["l2_permille"] = 1000
    return Wound(("l2_rate",), "schedule")


# ------------------------------------------------------------------------------- buffers


def _buffered(scene: Scene, least: int = 1) -> Data:
    return scene.one_of(kernel for kernel in scene.kernels if len(kernel["buffers"]) >= least)


def _capacity(scene: Scene, buffer: Data) -> int:
    return scene.machine.capacity(MemoryName(buffer["memory"]))


def _unit(scene: Scene, buffer: Data) -> int:
    return scene.machine.alignment(MemoryName(buffer["memory"]))


@kind
def buffers_overlap_by_one_unit(scene: Scene) -> Wound:
    one, other = scene.one_of(
        (one, other)
        for kernel in scene.kernels
        for one, other in combinations(kernel["buffers"], 2)
        if one["memory"] == other["memory"]
    )
    unit = _unit(scene, one)
    top = one["offset_bytes"] + one["size_bytes"] * one["slots"]
    other["offset_bytes"] = max(0, -(-top // unit) * unit - unit)
    return Wound(("overlap",), f"in {one['memory']}")


@kind
def buffer_misaligned(scene: Scene) -> Wound:
    kernel = _buffered(scene)
    buffer = scene.one_of(kernel["buffers"])
    buffer["offset_bytes"] += 1
    return Wound(("alignment",), f"{label(kernel)}: {buffer['name']} in {buffer['memory']}", 1)


@kind
def buffer_one_byte_beyond_capacity(scene: Scene) -> Wound:
    kernel = _buffered(scene)
    buffer = scene.one_of(kernel["buffers"])
    buffer["offset_bytes"] = _capacity(scene, buffer) - buffer["size_bytes"] * buffer["slots"] + 1
    return Wound(("capacity",), f"{label(kernel)}: {buffer['name']} in {buffer['memory']}", 1)


@kind
def buffer_of_another_size(scene: Scene) -> Wound:
    kernel = _buffered(scene)
    buffer = scene.one_of(kernel["buffers"])
    unit = _unit(scene, buffer)
    buffer["size_bytes"] += unit if buffer["size_bytes"] <= unit else scene.either(-unit, unit)
    return Wound(("buffers",), label(kernel))


@kind
def buffer_with_another_number_of_slots(scene: Scene) -> Wound:
    kernel = _buffered(scene)
    buffer = scene.one_of(kernel["buffers"])
    buffer["slots"] = 1 if buffer["slots"] > 1 else 2
    return Wound(("buffers",), label(kernel))


@kind
def buffer_missing(scene: Scene) -> Wound:
    kernel = _buffered(scene)
    kernel["buffers"].remove(scene.one_of(kernel["buffers"]))
    return Wound(("buffers",), label(kernel), 1)


@kind
def buffer_listed_twice(scene: Scene) -> Wound:
    kernel = _buffered(scene)
    kernel["buffers"].append(dict(scene.one_of(kernel["buffers"])))
    return Wound(("buffers",), label(kernel), 1)


@kind
def buffer_where_no_path_leads(scene: Scene) -> Wound:
    """What the cube unit makes goes to L0C; no chip has a path from the cube unit into the vector core's UB."""
    kernel, buffer = scene.one_of(
        (kernel, buffer) for kernel in scene.kernels for buffer in kernel["buffers"] if buffer["memory"] == "l0c"
    )
    buffer["memory"] = "ub"
    return Wound(("buffers",), label(kernel))
