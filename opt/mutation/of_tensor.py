"""Mistakes in where tensors are: residencies and workspaces in L2, moves, reads and writes."""

from __future__ import annotations

from itertools import combinations

from instances.graph import Role
from instances.machine import MemoryName
from opt.mutation.wound import Data, Scene, Wound, kind, label, shift


def _unit(scene: Scene) -> int:
    return scene.machine.alignment(MemoryName.L2)


def _served(scene: Scene) -> list[tuple[Data, Data]]:
    """Kernels that read from L2, with the residency that ends with them."""
    return [
        (kernel, stay)
        for kernel, read in scene.readers
        if read["source"] == "l2"
        for stay in scene.stays
        if stay["tensor"] == read["tensor"] and stay["end_ns"] == kernel["end_ns"]
    ]


@kind
def residencies_overlap_by_one_unit(scene: Scene) -> Wound:
    one, other = scene.one_of(
        (one, other)
        for one, other in combinations(scene.stays, 2)
        if one["start_ns"] < other["end_ns"] and other["start_ns"] < one["end_ns"]
    )
    other["offset_bytes"] = one["offset_bytes"] + one["size_bytes"] - _unit(scene)
    return Wound(("overlap",), other["tensor"])


@kind
def residency_misaligned(scene: Scene) -> Wound:
    stay = scene.one_of(scene.stays)
    stay["offset_bytes"] += 1
    return Wound(("alignment",), f"{stay['tensor']} in l2", 1)


@kind
def residency_one_byte_beyond_capacity(scene: Scene) -> Wound:
    stay = scene.one_of(scene.stays)
    stay["offset_bytes"] = scene.machine.capacity(MemoryName.L2) - stay["size_bytes"] + 1
    return Wound(("capacity",), f"{stay['tensor']} in l2", 1)


@kind
def residency_ends_1_ns_before_its_reader(scene: Scene) -> Wound:
    kernel, stay = scene.one_of(_served(scene))
    stay["end_ns"] -= 1
    return Wound(("l2_read",), f"{label(kernel)}: {stay['tensor']}")


@kind
def residency_outlives_its_last_use(scene: Scene) -> Wound:
    stay = scene.one_of(scene.stays)
    stay["end_ns"] += 1
    return Wound(("residency",), stay["tensor"], 1)


@kind
def residency_of_another_size(scene: Scene) -> Wound:
    stay, unit = scene.one_of(scene.stays), _unit(scene)
    by = unit if stay["size_bytes"] <= unit else scene.either(-unit, unit)
    stay["size_bytes"] += by
    return Wound(("residency",), stay["tensor"], by)


@kind
def residency_without_origin(scene: Scene) -> Wound:
    stay = scene.one_of(scene.stays)
    stay["start_ns"] += 1
    return Wound(("residency",), stay["tensor"], 1)


@kind
def residency_listed_twice(scene: Scene) -> Wound:
    stay = scene.one_of(scene.stays)
    scene.data["residencies"].append(dict(stay))
    return Wound(("residency",), stay["tensor"], 1)


@kind
def residency_missing(scene: Scene) -> Wound:
    stay = scene.one_of(scene.stays)
    scene.data["residencies"].remove(stay)
    return Wound(("residency",), stay["tensor"], 1)


@kind
def workspace_missing(scene: Scene) -> Wound:
    kernel = scene.one_of(k for k in scene.kernels if k["workspace_offset_bytes"] is not None)
    kernel["workspace_offset_bytes"] = None
    return Wound(("workspace",), label(kernel))


@kind
def workspace_of_a_kernel_without(scene: Scene) -> Wound:
    kernel = scene.one_of(k for k in scene.kernels if k["workspace_offset_bytes"] is None)
    kernel["workspace_offset_bytes"] = 0
    return Wound(("workspace",), label(kernel), 0)


@kind
def workspace_misaligned(scene: Scene) -> Wound:
    kernel = scene.one_of(k for k in scene.kernels if k["workspace_offset_bytes"] is not None)
    kernel["workspace_offset_bytes"] += 1
    return Wound(("alignment",), f"workspace of {label(kernel)} in l2", 1)


@kind
def workspace_over_a_tensor(scene: Scene) -> Wound:
    kernel, stay = scene.one_of(
        (kernel, stay)
        for kernel in scene.kernels
        if kernel["workspace_offset_bytes"] is not None
        for stay in scene.stays
        if stay["start_ns"] < kernel["end_ns"] and kernel["start_ns"] < stay["end_ns"]
    )
    kernel["workspace_offset_bytes"] = stay["offset_bytes"]
    return Wound(("overlap",), f"workspace of {label(kernel)}")


# ------------------------------------------------------------------------------- moves


@kind
def move_of_an_unknown_tensor(scene: Scene) -> Wound:
    end = scene.data["latency_ns"]
    scene.data["moves"].append({"tensor": "nobody", "kind": "spill", "start_ns": end, "end_ns": end})
    return Wound(("move",), "spill of nobody", 1)


@kind
def move_of_another_kind(scene: Scene) -> Wound:
    move = scene.one_of(scene.moves)
    prefetch = move["kind"] == "prefetch"
    move["kind"] = scene.one_of(("fill", "spill")) if prefetch else "prefetch"
    return Wound(("move",), f"{move['kind']} of {move['tensor']}", 1)


@kind
def prefetch_missing(scene: Scene) -> Wound:
    move = scene.one_of(m for m in scene.moves if m["kind"] != "spill")
    scene.data["moves"].remove(move)
    return Wound(("residency",), move["tensor"], 1)


@kind
def prefetch_without_a_place(scene: Scene) -> Wound:
    move = scene.one_of(m for m in scene.moves if m["kind"] != "spill")
    scene.data["residencies"].remove(scene.stay_of(move))
    return Wound(("residency",), move["tensor"], 1)


@kind
def spill_missing(scene: Scene) -> Wound:
    move = scene.one_of(m for m in scene.moves if m["kind"] == "spill")
    scene.data["moves"].remove(move)
    needed = scene.graph.tensor[move["tensor"]].role is Role.OUTPUT
    return Wound(("output" if needed else "hbm_read",), move["tensor"])


@kind
def spill_after_the_tensor_has_gone(scene: Scene) -> Wound:
    move = scene.one_of(m for m in scene.moves if m["kind"] == "spill")
    shift(move, scene.data["latency_ns"] + 1 - move["start_ns"])
    return Wound(("spill",), f"spill of {move['tensor']}", 1)


# ------------------------------------------------------------------------------- reads and writes


@kind
def output_not_written_back(scene: Scene) -> Wound:
    outputs = {t.name for t in scene.graph.tensors if t.role.value == "output"}
    spilled = {m["tensor"] for m in scene.moves if m["kind"] == "spill"}
    write = scene.one_of(w for k in scene.kernels for w in k["writes"] if w["hbm"] and w["tensor"] in outputs - spilled)
    write["hbm"] = False
    return Wound(("output",), write["tensor"], scene.graph.tensor[write["tensor"]].size_bytes)


@kind
def read_from_l2_of_what_is_not_there(scene: Scene) -> Wound:
    here = {stay["tensor"] for stay in scene.stays}
    kernel, read = scene.one_of(
        (kernel, read) for kernel, read in scene.readers if read["source"] == "hbm" and read["tensor"] not in here
    )
    read["source"] = "l2"
    return Wound(("l2_read",), f"{label(kernel)}: {read['tensor']}", 1)


@kind
def read_from_hbm_of_what_was_never_written_there(scene: Scene) -> Wound:
    written = {w["tensor"] for k in scene.kernels for w in k["writes"] if w["hbm"]}
    written |= {m["tensor"] for m in scene.moves if m["kind"] == "spill"}
    kernel, read = scene.one_of(
        (kernel, read)
        for kernel, read in scene.readers
        if read["source"] == "l2" and read["tensor"] in scene.maker and read["tensor"] not in written
    )
    read["source"] = "hbm"
    return Wound(("hbm_read",), f"{label(kernel)}: {read['tensor']}", 1)


@kind
def residency_that_its_kernel_does_not_leave(scene: Scene) -> Wound:
    write = scene.one_of(w for k in scene.kernels for w in k["writes"] if w["l2"])
    write.update(l2=False, hbm=True)
    return Wound(("residency",), write["tensor"], 1)
