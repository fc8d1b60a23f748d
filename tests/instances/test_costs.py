"""Prices against figures worked out by hand; the arithmetic stands in the docstrings.

Figures of ascend910b2: 1800 MHz, so 5/9 ns per cycle; 24 cube and 48 vector cores; HBM 1190 B/ns; L2 3600 B/ns;
ports in cycles per move + bytes per cycle: L2->L1 200 (and 600 for ND->NZ) + /160, L2->UB 200 + /120, UB->L2 90 + /66,
L1->L0A 2 + /256, L1->L0B 2 + /128, L0C->L2 20 + /120; matrix unit 2 cycles per instruction + 4096 macs per cycle (16
bit); vector unit 64 lanes of 32 bits per repeat, 25 cycles per call. The constants that are fitted to measured kernels
are set to round numbers here, so that a new fit leaves the arithmetic alone: launch 2000 (vector), 4300 (cube), 6300 ns
(mixed), nothing per step; a hand-over 500 ns; pipes hide each other wholly.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from instances.build import build_instance
from instances.costs import Misfit, explicit_move_ns, hbm_ns, price, price_group
from instances.costs.terms import (
    balanced,
    l2_ns,
    launch_ns,
    link_ns,
    miss_ns_per_mib,
    mmad_ns,
    move_ns,
    place_buffers,
    round_up,
    total_work,
    vector_ns,
)
from instances.fusion import Fuser, Fusion
from instances.graph import DType, Graph, OpKind, Role, VectorClass
from instances.graph_builder import GraphBuilder, work
from instances.instance import Instance
from instances.kernels import Cost, KernelKind, Rule, Tiling
from instances.machine import Machine, MemoryName, load_machine
from tests.conftest import llama_graph


def rounded(name: str) -> Machine:
    """A chip with round numbers for its fitted constants."""
    data = load_machine(name).model_dump(mode="json")
    data["launch"] |= {
        f"{kind}_ns": data["launch"][f"{kind}_ns"] | {"value": value}
        for kind, value in (("vector", 2000), ("cube", 4300), ("mix", 6300), ("step", 0), ("cold_step", 0))
    }
    data["exposed"] = {kind: figure | {"value": 0} for kind, figure in data["exposed"].items()}
    data["sync_ns"] |= {"value": 500}
    data["hbm"]["miss_bytes_per_cycle"] |= {"value": 50}
    return Machine.model_validate(data)


B2 = rounded("ascend910b2")
PR = rounded("ascend950pr")
CYCLE = 5 / 9
"""Nanoseconds per cycle at 1800 MHz."""


def fusion_of(graph: Graph, *names: str) -> Fusion:
    fusion = Fuser(graph).judge(names)
    assert fusion is not None
    return fusion


def times(cost: Cost) -> tuple[int, int, int]:
    return cost.head_ns, cost.busy_ns, cost.tail_ns


def areas(cost: Cost) -> dict[str, tuple[int, int, int]]:
    """Buffer -> offset, bytes of a slot, slots."""
    return {f"{b.memory.value} {b.name}": (b.offset_bytes, b.size_bytes, b.slots) for b in cost.buffers}


# ------------------------------------------------------------------------------- terms


def test_round_up_and_balanced() -> None:
    """100 cut into tiles of at most 64 is 2 of 50, padded to 64; 130 is 3 of 44, padded to 48."""
    assert [round_up(value, 16) for value in (0, 1, 16, 17)] == [0, 16, 16, 32]
    assert balanced(100, 64) == 50
    assert balanced(100, 64, 16) == 64
    assert balanced(130, 64, 16) == 48
    assert balanced(64, 64, 16) == 64


def test_move() -> None:
    """3 moves of 12000 bytes from L2 to UB: 3 * 200 + 12000 / 120 = 700 cycles."""
    path = B2.path(MemoryName.L2, MemoryName.UB)
    assert move_ns(B2, path, 12_000, 3) == pytest.approx(700 * CYCLE)
    assert move_ns(B2, B2.path(MemoryName.UB, MemoryName.L2), 6600, 1) == pytest.approx(190 * CYCLE)
    with pytest.raises(Misfit, match="path"):
        move_ns(B2, B2.path(MemoryName.L0C, MemoryName.UB), 1, 1)


def test_mmad() -> None:
    """16 x 16 x 16 of 16 bit: 2 + 1 cycles; 64 x 128 x 256 in 2 instructions: 4 + 512. int8 is twice as fast and
    padded to 32 of depth, so k = 16 takes as long as 32; float32 is a quarter, padded to 8."""
    assert mmad_ns(B2, DType.FLOAT16, 16, 16, 16, 1) == pytest.approx(3 * CYCLE)
    assert mmad_ns(B2, DType.FLOAT16, 16, 16, 1, 1) == pytest.approx(3 * CYCLE)
    assert mmad_ns(B2, DType.BFLOAT16, 64, 128, 256, 2) == pytest.approx(516 * CYCLE)
    assert mmad_ns(B2, DType.INT8, 16, 16, 16, 1) == mmad_ns(B2, DType.INT8, 16, 16, 32, 1)
    assert mmad_ns(B2, DType.INT8, 16, 16, 32, 1) == pytest.approx(3 * CYCLE)
    assert mmad_ns(B2, DType.FLOAT32, 16, 16, 8, 1) == pytest.approx(4 * CYCLE)
    with pytest.raises(Misfit, match="matrix unit for int32"):
        mmad_ns(B2, DType.INT32, 16, 16, 16, 1)
    with pytest.raises(Misfit, match="matrix unit for bfloat16"):
        mmad_ns(load_machine("ascend310p3"), DType.BFLOAT16, 16, 16, 16, 1)


def test_vector() -> None:
    """640 elements are 10 repeats: 10 * 2 for an addition, 10 * 4 for a division, 10 * 3 for a sum, 3 calls of 25."""
    amount = {VectorClass.TWO_SOURCE: 640, VectorClass.DIVIDE: 640, VectorClass.REDUCE: 640}
    assert vector_ns(B2, amount, 3) == pytest.approx((20 + 40 + 30 + 75) * CYCLE)
    assert vector_ns(B2, {VectorClass.GATHER: 64, VectorClass.SORT: 64}, 0) == pytest.approx((12 + 16) * CYCLE)
    assert vector_ns(B2, {VectorClass.TRANSCENDENTAL: 64, VectorClass.CONVERT: 64}, 0) == pytest.approx(3 * CYCLE)


def test_total_work() -> None:
    """Two additions of 64, and 32 elements converted on the way in and out."""
    graph = adds(1, 64, chained=True)
    assert total_work(graph.operators, 32) == {VectorClass.TWO_SOURCE: 128, VectorClass.CONVERT: 32}
    assert total_work(graph.operators, 0) == {VectorClass.TWO_SOURCE: 128}


def test_launch() -> None:
    kinds = (KernelKind.VECTOR, KernelKind.CUBE, KernelKind.MIX, KernelKind.LINK)
    assert [launch_ns(B2, kind, 3) for kind in kinds] == [2000, 4300, 6300, 0]


@pytest.mark.parametrize(
    ("message", "startup", "rate"),
    [
        (1, 14769, 38.75),
        (163_840, 14769, 38.75),  # 4228 + 14769; the second line gives 3319 + 23497
        (3 * 2**20, 23497, 49.36),  # 63729 + 23497 = 87226; the first 95951, the third 102261
        (64 * 2**20, 61508, 77.19),
    ],
)
def test_link(message: int, startup: float, rate: float) -> None:
    """The cheapest of the three published lines."""
    assert link_ns(B2, message) == pytest.approx(startup + message / rate)
    assert link_ns(B2, message) <= min(s.startup_ns.value + message / s.rate_gb_s.value for s in B2.link.segments)


def test_l2() -> None:
    """3600 bytes per ns at the full share, a quarter of that at 250 thousandths."""
    assert l2_ns(B2, 3_600_000, 1000) == pytest.approx(1000)
    assert l2_ns(B2, 3_600_000, 250) == pytest.approx(4000)
    assert l2_ns(B2, 0, 0) == 0
    with pytest.raises(Misfit, match="l2 rate"):
        l2_ns(B2, 1, 0)


def test_hbm() -> None:
    """131072 / 1190 = 110.1, rounded up; an explicit move starts up in 500 ns."""
    assert hbm_ns(B2, 131_072) == 111
    assert hbm_ns(B2, 1190) == 1
    assert hbm_ns(B2, 1191) == 2
    assert explicit_move_ns(B2, 131_072) == 611


def test_ports_on_a_miss() -> None:
    """A port draws 50 B/cycle = 90 B/ns: 8 cores 720, 13 cores 1170, 14 cores 1260 and thus more than HBM's 1190."""
    assert miss_ns_per_mib(B2, 8) == pytest.approx(2**20 / 720)
    assert miss_ns_per_mib(B2, 13) == pytest.approx(2**20 / 1170)
    assert miss_ns_per_mib(B2, 14) == 0
    assert miss_ns_per_mib(B2, 0) == 0


def test_place_buffers() -> None:
    """One after the other in each memory, sizes rounded up to its alignment (32 in UB, 512 in L0A)."""
    demands = [("a", MemoryName.UB, 33, 2), ("b", MemoryName.L0A, 1, 1), ("c", MemoryName.UB, 32, 1)]
    placed = [(b.name, b.offset_bytes, b.size_bytes, b.slots) for b in place_buffers(B2, demands)]
    assert placed == [("a", 0, 64, 2), ("b", 0, 512, 1), ("c", 128, 32, 1)]


def test_place_buffers_beyond_capacity() -> None:
    """UB holds 188416 bytes: two slots of 94208 fill it, 32 bytes more are 32 bytes over."""
    demands = [("a", MemoryName.UB, 94_208, 2)]
    assert len(place_buffers(B2, demands)) == 1
    with pytest.raises(Misfit, match="ub: 32 bytes over") as caught:
        place_buffers(B2, [*demands, ("b", MemoryName.UB, 1, 1)])
    assert (caught.value.over_bytes, caught.value.needed_bytes) == (32, 188_448)


# ------------------------------------------------------------------------------- vector kernels


def adds(rows: int, columns: int, chained: bool = False) -> Graph:
    """``z = x + y`` over [rows, columns] of 16 bit; ``chained``: then ``u = z + y``."""
    builder = GraphBuilder({"rows": rows, "columns": columns}, DType.FLOAT16)
    x, y = (builder.tensor(name, ("rows", "columns"), Role.INPUT) for name in "xy")
    z = builder.add("add", x, y, "z", Role.INTERMEDIATE if chained else Role.OUTPUT)
    if chained:
        builder.add("again", z, y, "u", Role.OUTPUT)
    return builder.graph("adds")


def test_vector_add() -> None:
    """48 x 1024 elements, a tile of 1024 on each of 48 cores.

    load     2 moves, 2 * 2048 bytes:  2 * 200 + 4096 / 120 = 434.133 cycles = 241.19 ns
    compute  1024 / 64 = 16 repeats:   add 16 * 2, 3 * 16 conversions, one call 25 = 105 cycles = 58.33 ns
    store    1 move, 2048 bytes:       90 + 2048 / 66 = 121.030 cycles = 67.24 ns
    L2       48 * 3 * 2048 = 294912 bytes / 3600 = 81.92 ns

    Head 2000; body 242 by the loads; tail 58.33 + 67.24 = 125.57 -> 126.
    """
    fusion = fusion_of(adds(48, 1024), "add")
    cost = price(fusion, B2, Tiling(tile={"rows*columns": 1024}, aic=0, aiv=48, l2_permille=1000))
    assert times(cost) == (2000, 242, 126)
    assert cost.least_ns == 2368
    assert cost.engines_ns == {"l2": 82, "mte2": 242, "vector": 59, "mte3": 68}
    assert cost.bound_by == "mte2"
    assert (cost.l2_bytes, cost.workspace_bytes, cost.miss_ns_per_mib) == (294_912, 0, 0)
    assert areas(cost) == {
        "ub read0": (0, 2048, 2),
        "ub read1": (4096, 2048, 2),
        "ub write0": (8192, 2048, 2),
        "ub work": (12_288, 4096, 2),  # two rows' worth in 32 bits
    }


def test_vector_add_on_fewer_cores() -> None:
    """12 cores take 4 tiles each: loads 4 * 241.19 = 964.74 -> 965; their ports draw 12 * 90 = 1080 B/ns, less than
    HBM's 1190: 2**20 / 1080 = 970.9 -> 971 ns per MiB. Head and tail are those of one tile."""
    fusion = fusion_of(adds(48, 1024), "add")
    cost = price(fusion, B2, Tiling(tile={"rows*columns": 1024}, aic=0, aiv=12, l2_permille=1000))
    assert times(cost) == (2000, 965, 126)
    assert cost.miss_ns_per_mib == 971
    assert cost.l2_bytes == 294_912


def test_vector_add_with_little_of_the_l2_rate() -> None:
    """At 100 thousandths L2 gives 360 B/ns: 819.2 ns, the slowest; the pipeline then drains one tile of each stage:
    241.19 + 58.33 + 67.24 = 366.76 -> 367."""
    fusion = fusion_of(adds(48, 1024), "add")
    cost = price(fusion, B2, Tiling(tile={"rows*columns": 1024}, aic=0, aiv=48, l2_permille=100))
    assert times(cost) == (2000, 820, 367)
    assert cost.bound_by == "l2"


def test_fused_adds_load_once() -> None:
    """z stays inside: two operands in, one result out, as for one addition. Vector: 2 * 16 * 2 + 48 + 2 calls of 25 =
    162 cycles = 90 ns; tail 90 + 67.24 = 157.24 -> 158."""
    fusion = fusion_of(adds(48, 1024, chained=True), "add", "again")
    assert fusion.rule is Rule.VECTOR_CHAIN
    cost = price(fusion, B2, Tiling(tile={"rows*columns": 1024}, aic=0, aiv=48, l2_permille=1000))
    assert times(cost) == (2000, 242, 158)
    assert cost.l2_bytes == 294_912


def norms(rows: int, columns: int) -> Graph:
    builder = GraphBuilder({"rows": rows, "columns": columns}, DType.FLOAT16)
    x = builder.tensor("x", ("rows", "columns"), Role.INPUT)
    builder.norm("", "norm", x, rms=True, whole=("columns",), role=Role.OUTPUT)
    return builder.graph("norms")


def test_norm() -> None:
    """48 rows of 1024, one on each of 48 cores, and the 1024 weights again on each.

    load     2 moves, 2048 + 2048 bytes: 434.133 cycles = 241.19 ns
    compute  two-source 2 * 16 * 2 = 64, sum 16 * 3 = 48, one-source 16; a root and a division for the row, (2 + 4) / 64
             = 0.094; conversions of row, result and a 48th of the weights: (2048 + 21.33) / 64 = 32.333; 6 calls =
             150; together 310.427 cycles = 172.46 ns
    store    67.24 ns; tail 172.46 + 67.24 = 239.70 -> 240
    L2       48 * 3 * 2048 = 294912 bytes
    """
    cost = price(fusion_of(norms(48, 1024), "norm"), B2, Tiling(tile={"rows": 1}, aic=0, aiv=48, l2_permille=1000))
    assert times(cost) == (2000, 242, 240)
    assert cost.l2_bytes == 294_912


def test_uneven_tiles_cost_what_the_busiest_core_does() -> None:
    """17 rows in tiles of 16 leave 16 rows to one core and 1 to the other: no faster than 16 rows on one core."""
    uneven = price(fusion_of(norms(17, 512), "norm"), B2, Tiling(tile={"rows": 16}, aic=0, aiv=2, l2_permille=1000))
    alone = price(fusion_of(norms(16, 512), "norm"), B2, Tiling(tile={"rows": 16}, aic=0, aiv=1, l2_permille=1000))
    for engine in ("mte2", "vector", "mte3"):
        assert uneven.engines_ns[engine] >= 0.99 * alone.engines_ns[engine]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tile": {"rows": 1024}}, "tile along rows"),
        ({"tile": {"rows*columns": 48 * 1024 + 1}}, "tile along rows"),
        ({"aiv": 0}, "tile along rows"),
        ({"aiv": 49}, "tile along rows"),  # more cores than tiles
        ({"aic": 1}, "cube cores of a vector kernel"),
        ({"parts": {"rows*columns": 2}}, "tile along rows"),
        ({"l2_permille": 0}, "l2 rate"),
    ],
)
def test_impossible_tilings_of_a_vector_kernel(change: dict[str, Any], why: str) -> None:
    good = Tiling(tile={"rows*columns": 1024}, aic=0, aiv=48, l2_permille=1000)
    fusion = fusion_of(adds(48, 1024), "add")
    price(fusion, B2, good)
    with pytest.raises(Misfit, match=why):
        price(fusion, B2, good.model_copy(update=change))


def test_vector_tile_beyond_ub() -> None:
    """Per element 3 * 2 bytes for two operands and the result, twice, and 2 * 4 for the work area: 20 bytes.

    9408 elements take 188160 of 188416 bytes. 9440 would take 384 more than there are, so that operands and result get
    single buffers, 14 bytes per element, and each tile is loaded, added and stored in turn: the body is the sum. Of
    those, 13440 elements take 188160 bytes; 13472 take 188608, 192 over.
    """
    fusion = fusion_of(adds(480, 1024), "add")
    for elements, slots in ((9408, 2), (9440, 1), (13_440, 1)):
        cost = price(fusion, B2, Tiling(tile={"rows*columns": elements}, aic=0, aiv=36, l2_permille=1000))
        assert {b.slots for b in cost.buffers if b.name != "work"} == {slots}
        pipes = sum(cost.engines_ns[pipe] for pipe in ("mte2", "vector", "mte3"))
        if slots == 1:
            assert pipes - 3 <= cost.busy_ns <= pipes  # each engine is rounded up by itself
        else:
            assert cost.busy_ns == max(cost.engines_ns.values())
    with pytest.raises(Misfit, match="ub: 192 bytes over"):
        price(fusion, B2, Tiling(tile={"rows*columns": 13_472}, aic=0, aiv=36, l2_permille=1000))


# ------------------------------------------------------------------------------- matmuls


def matmuls(m: int, k: int, n: int, epilogue: str = "", dtype: DType = DType.FLOAT16) -> Graph:
    """``y = a @ b``; with an epilogue ``z = y + r`` ("add") or ``gelu(y)``."""
    builder = GraphBuilder({"m": m, "k": k, "n": n}, dtype)
    a = builder.tensor("a", ("m", "k"), Role.INPUT)
    b = builder.weight("b", ("k", "n"))
    y = builder.tensor("y", ("m", "n"), Role.INTERMEDIATE if epilogue else Role.OUTPUT)
    builder.matmul("mm", (a, b), y)
    if epilogue == "add":
        builder.add("end", y, builder.tensor("r", ("m", "n"), Role.INPUT), "z", Role.OUTPUT)
    elif epilogue:
        z = builder.tensor("z", ("m", "n"), Role.OUTPUT)
        builder.op("end", OpKind.ACTIVATION, (y,), (z,), vector=work(epilogue, m * n))
    return builder.graph("matmuls")


TILE = {"m": 64, "n": 128, "k": 128}


def test_matmul() -> None:
    """64 x 256 by 256 x 1024 in tiles of 64 x 128, depth 128 at a time: 8 tiles, one on each of 8 cores.

    L1    holds both operands of a tile: 64 * 256 * 2 = 32768 and 256 * 128 * 2 = 65536 bytes, in 2 moves, of which
          that of the activation turns ND into NZ: 2 * 200 + 600 + 98304 / 160 = 1614.4 cycles = 896.89 ns
    L0    2 steps: 2 * 2 + 32768 / 256 = 132 cycles, and 2 * 2 + 65536 / 128 = 516: 648 cycles = 360 ns, of which the
          first step is half, 180 ns
    cube  2 * 2 + 64 * 128 * 256 / 4096 = 516 cycles = 286.67 ns
    out   20 + 64 * 128 * 2 / 120 = 156.533 cycles = 86.96 ns
    L2    8 * (98304 + 16384) = 917504 bytes / 3600 = 254.86 ns

    Head 4300; body 897 by the loads; tail 180 + 286.67 + 86.96 = 553.63 -> 554.
    """
    fusion = fusion_of(matmuls(64, 256, 1024), "mm")
    cost = price(fusion, B2, Tiling(tile=TILE, aic=8, aiv=0, l2_permille=1000))
    assert times(cost) == (4300, 897, 554)
    assert cost.least_ns == 5751
    assert cost.engines_ns == {"l2": 255, "mte2": 897, "mte1": 360, "cube": 287, "fixp": 87}
    assert (cost.l2_bytes, cost.workspace_bytes, cost.miss_ns_per_mib) == (917_504, 0, math.ceil(2**20 / 720))
    assert areas(cost) == {
        "l1 left": (0, 32_768, 1),
        "l1 right": (32_768, 65_536, 2),
        "l0a left": (0, 16_384, 2),
        "l0b right": (0, 32_768, 2),
        "l0c sum": (0, 32_768, 2),
    }


def test_matmul_with_a_quarter_of_the_l2_rate() -> None:
    """917504 / 900 = 1019.4 -> 1020 ns; then one tile drains through all stages: 896.89 + 180 + 286.67 + 86.96 =
    1450.52 -> 1451."""
    fusion = fusion_of(matmuls(64, 256, 1024), "mm")
    cost = price(fusion, B2, Tiling(tile=TILE, aic=8, aiv=0, l2_permille=250))
    assert times(cost) == (4300, 1020, 1451)


def test_matmul_split_along_its_depth() -> None:
    """16 items of depth 128 on 16 cores; partial sums in 32 bits are written and added up through L2.

    L1    2 * 200 + 600 + 49152 / 160 = 1307.2 cycles = 726.22 ns, the slowest
    L0    2 + 64 + 2 + 256 = 324 cycles = 180 ns, one step
    cube  2 + 256 = 258 cycles = 143.33 ns
    out   20 + 64 * 128 * 4 / 120 = 293.067 cycles = 162.81 ns
    L2    16 * (49152 + 2 * 32768) = 1835008 bytes / 3600 = 509.7 -> 510 ns

    Tail 180 + 143.33 + 162.81 = 486.14 -> 487.
    """
    fusion = fusion_of(matmuls(64, 256, 1024), "mm")
    cost = price(fusion, B2, Tiling(tile=TILE, parts={"k": 2}, aic=16, aiv=0, l2_permille=1000))
    assert times(cost) == (4300, 727, 487)
    assert cost.l2_bytes == 1_835_008
    assert cost.miss_ns_per_mib == 0


def test_matmul_in_waves() -> None:
    """8 tiles on 5 cores: the busiest has 2, and holds the left operand, one tile high, for both. Loads 32768 + 2 *
    65536 bytes in 1 + 2 moves: 600 + 600 + 1024 = 2224 cycles = 1235.6 -> 1236 ns; 5 or 7 are no faster than 4."""
    fusion = fusion_of(matmuls(64, 256, 1024), "mm")
    found = {
        aic: price(fusion, B2, Tiling(tile=TILE, aic=aic, aiv=0, l2_permille=1000)).engines_ns["mte2"]
        for aic in (4, 5, 7, 8)
    }
    assert found == {4: 1236, 5: 1236, 7: 1236, 8: 897}


def test_mixed_kernel_on_910b() -> None:
    """The matmul above and ``+ r``, each tile handed over through an L2 workspace to two vector cores.

    out         20 + 64 * 128 * 4 / 120 = 293.067 cycles = 162.81 ns, 32 bits
    hand-over   500 ns
    vector in   half of 32768 + 16384 bytes in 2 moves: 400 + 24576 / 120 = 604.8 cycles = 336 ns
    vector      4096 elements: add 64 * 2, 2 * 64 conversions, 25 = 281 cycles = 156.11 ns
    vector out  90 + 8192 / 66 = 214.121 cycles = 118.96 ns

    Body 897 by the loads; tail 180 + 286.67 + 162.81 + 500 + 336 + 156.11 + 118.96 = 1740.55 -> 1741.
    L2: 8 * (98304 + 16384 of r + 16384 of z + 2 * 32768 of the workspace) = 1572864 bytes.
    Workspace: 8 cores, 2 tiles in flight, 64 * 128 * 4 bytes = 524288.
    """
    fusion = fusion_of(matmuls(64, 256, 1024, "add"), "mm", "end")
    cost = price(fusion, B2, Tiling(tile=TILE, aic=8, aiv=16, l2_permille=1000))
    assert times(cost) == (6300, 897, 1741)
    assert (cost.l2_bytes, cost.workspace_bytes) == (1_572_864, 524_288)
    assert {name: area for name, area in areas(cost).items() if name.startswith("ub")} == {
        "ub sum": (0, 16_384, 2),
        "ub work": (32_768, 16_384, 2),
        "ub vector0": (65_536, 8192, 2),
        "ub vector1": (81_920, 8192, 2),
    }


def test_direct_path_saves_the_workspace() -> None:
    """On 950 the tile goes from L0C to UB: no workspace, and 2 * 8 * 32768 bytes less through L2."""
    fusion = fusion_of(matmuls(64, 256, 1024, "add"), "mm", "end")
    tiling = Tiling(tile=TILE, aic=8, aiv=16, l2_permille=1000)
    old, new = price(fusion, B2, tiling), price(fusion, PR, tiling)
    assert (old.workspace_bytes, new.workspace_bytes) == (524_288, 0)
    assert old.l2_bytes - new.l2_bytes == 2 * 8 * 32_768


def test_gated_workspace() -> None:
    """Two matmuls joined: two tiles per core and stage. 16 x 64 x 4 bytes * 2 * 2 * 8 cores = 131072."""
    fusion = fusion_of(llama_graph(), "l0.gate_proj", "l0.up_proj", "l0.act")
    tiling = Tiling(tile={"batch*seq": 16, "ffn": 64, "hidden": 128}, aic=8, aiv=16, l2_permille=1000)
    assert price(fusion, B2, tiling).workspace_bytes == 131_072
    assert price(fusion, PR, tiling).workspace_bytes == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tile": {"m": 64, "n": 128}}, "tile along k, m, n"),
        ({"tile": {"m": 40, "n": 128, "k": 128}}, "multiples of the 16"),
        ({"tile": {"m": 64, "n": 128, "k": 8}}, "multiples of the 16"),
        ({"tile": {"m": 80, "n": 128, "k": 128}}, "larger than the matrix"),
        ({"tile": {"m": 64, "n": 128, "k": 272}}, "larger than the matrix"),
        ({"aic": 0}, "multiples of the 16"),
        ({"aic": 9}, "more cores or parts than tiles"),
        ({"parts": {"k": 4}}, "more cores or parts than tiles"),
        ({"parts": {"n": 2}}, "tile along k, m, n"),
        ({"aiv": 16}, "vector cores of a cube kernel"),
        ({"tile": {"m": 64, "n": 256, "k": 128}, "aic": 4}, "l0b: 65536 bytes over"),  # 2 * 256 * 128 * 2 bytes
        ({"tile": {"m": 64, "n": 1024, "k": 16}, "aic": 1}, "l0c: 131072 bytes over"),  # 64 * 1024 * 4 bytes
    ],
)
def test_impossible_tilings_of_a_matmul(change: dict[str, Any], why: str) -> None:
    good = Tiling(tile=TILE, aic=8, aiv=0, l2_permille=1000)
    with pytest.raises(Misfit, match=why):
        price(fusion_of(matmuls(64, 256, 1024), "mm"), B2, good.model_copy(update=change))


def test_mixed_kernel_takes_the_vector_cores_of_its_cube_cores() -> None:
    fusion = fusion_of(matmuls(64, 256, 1024, "gelu"), "mm", "end")
    with pytest.raises(Misfit, match="vector cores of a mixed kernel"):
        price(fusion, B2, Tiling(tile=TILE, aic=8, aiv=8, l2_permille=1000))
    with pytest.raises(Misfit, match="split depth under an epilogue"):
        price(fusion, B2, Tiling(tile=TILE, parts={"k": 2}, aic=16, aiv=32, l2_permille=1000))


# ------------------------------------------------------------------------------- attention, collectives


def attention() -> tuple[Graph, tuple[str, str, str]]:
    return llama_graph(), ("l0.attn_scores", "l0.softmax", "l0.attn_values")


def test_attention_workspace() -> None:
    """16 query rows by 256 keys: scores in 32 and probabilities in 16 bits, 16 * 256 * 6 bytes, and a partial result of
    16 * 128 * 4; two in flight on each of 16 cores: 16 * 2 * (24576 + 8192) = 1048576. On 950 none."""
    graph, names = attention()
    tiling = Tiling(tile={"group*seq": 16, "context": 256}, aic=16, aiv=32, l2_permille=1000)
    assert price_group(graph, B2, names, tiling).cost.workspace_bytes == 1_048_576
    assert price_group(graph, PR, names, tiling).cost.workspace_bytes == 0


def test_attention_split_along_the_context() -> None:
    """In two parts each of 16 * 8 * 4 rows of 128 is written in 32 bits once per part: 2 * 512 * 128 * 4 = 524288 bytes
    more of workspace, on any chip, and a pass over them at the end."""
    graph, names = attention()
    one = Tiling(tile={"group*seq": 16, "context": 256}, aic=16, aiv=32, l2_permille=1000)
    two = one.model_copy(update={"parts": {"context": 2}})
    for machine in (B2, PR):
        whole, split = (price_group(graph, machine, names, tiling).cost for tiling in (one, two))
        assert split.workspace_bytes - whole.workspace_bytes == 524_288
        assert split.tail_ns > whole.tail_ns
        assert split.l2_bytes > whole.l2_bytes


def test_collective(qwen: Instance) -> None:
    """16 rows of 5120 elements, 163840 bytes: 14769 + 163840 / 38.75 = 18997.1 -> 18998 ns; in and out of L2 once."""
    cost = price_group(qwen.graph, B2, ("l0.attn_all_reduce",), Tiling(tile={}, aic=0, aiv=0, l2_permille=25)).cost
    assert times(cost) == (0, 18_998, 0)
    assert cost.l2_bytes == 2 * 163_840
    assert cost.buffers == ()
    with pytest.raises(Misfit, match="cores of a collective"):
        price_group(qwen.graph, B2, ("l0.attn_all_reduce",), Tiling(tile={}, aic=1, aiv=0, l2_permille=25))


def test_price_of_what_may_not_be_one_kernel() -> None:
    with pytest.raises(ValueError, match=r"l0\.q_proj\+l0\.o_proj may not run as one kernel"):
        price_group(llama_graph(), B2, ("l0.q_proj", "l0.o_proj"), Tiling(tile={}, aic=0, aiv=0))


# ------------------------------------------------------------------------------- all that is kept


@cache
def built(machine: str, phase: str) -> Instance:
    dtype = "float16" if machine == "ascend310p3" else "bfloat16"
    return build_instance(llama_graph(phase, dtype=dtype), load_machine(machine))


MACHINES = ("ascend910b2", "ascend950pr", "ascend310p3")
ALL = [(machine, phase) for machine in MACHINES for phase in ("decode", "prefill")]


@pytest.mark.parametrize(("machine", "phase"), ALL)
def test_buffers_of_every_implementation_fit(machine: str, phase: str) -> None:
    """In every memory: aligned, one after the other, within capacity; and in the memories that the engines have."""
    instance = built(machine, phase)
    chip = instance.machine
    for template in instance.templates:
        for way in template.implementations:
            for memory in MemoryName:
                spans = sorted(
                    (b.offset_bytes, b.offset_bytes + b.slots * b.size_bytes)
                    for b in way.cost.buffers
                    if b.memory is memory
                )
                assert all(low % chip.alignment(memory) == 0 for low, _ in spans)
                assert all(high <= low for (_, high), (low, _) in pairwise(spans))
                assert not spans or spans[-1][1] <= chip.capacity(memory)
            used = {b.memory for b in way.cost.buffers}
            cube = {MemoryName.L1, MemoryName.L0A, MemoryName.L0B, MemoryName.L0C}
            if template.kind is KernelKind.VECTOR:
                assert used == {MemoryName.UB}
            elif template.kind is KernelKind.MIX:
                assert used == {*cube, MemoryName.UB}
            else:
                assert used - {MemoryName.UB} == cube
                assert chip.coupled or MemoryName.UB not in used


@pytest.mark.parametrize(("machine", "phase"), ALL)
def test_every_implementation_is_consistent(machine: str, phase: str) -> None:
    """The body is no shorter than an engine and no longer than all; cores exist; the workspace fits; and pricing again
    gives the same."""
    instance = built(machine, phase)
    chip = instance.machine
    first = {candidate.template: candidate for candidate in reversed(instance.candidates)}
    fuser = Fuser(instance.graph)
    for number, template in enumerate(instance.templates):
        fusion = fuser.judge(first[number].operators)
        assert fusion is not None
        for way in template.implementations:
            cost, tiling = way.cost, way.tiling
            assert price(fusion, chip, tiling) == cost
            assert max(cost.engines_ns.values()) <= cost.busy_ns <= sum(cost.engines_ns.values())
            assert cost.least_ns == sum(times(cost))
            assert cost.head_ns >= launch_ns(chip, template.kind, 0)
            assert 0 <= tiling.aic <= chip.aic_count and 0 <= tiling.aiv <= chip.aiv_count
            assert tiling.aic + tiling.aiv > 0
            assert 0 < tiling.l2_permille <= 1000
            assert cost.workspace_bytes <= chip.capacity(MemoryName.L2)
            assert cost.workspace_bytes % chip.alignment(MemoryName.L2) == 0


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_workspace_depends_on_the_direct_path(phase: str) -> None:
    """Every mixed kernel on 910B2 needs a workspace; on 950PR none does unless it splits the context."""
    for machine, direct in (("ascend910b2", False), ("ascend950pr", True)):
        ways = [
            way
            for template in built(machine, phase).templates
            if template.kind is KernelKind.MIX
            for way in template.implementations
        ]
        assert ways
        for way in ways:
            assert (way.cost.workspace_bytes > 0) == (not direct or bool(way.tiling.parts))


def faster_hbm(machine: Machine, factor: float) -> Machine:
    data = machine.model_dump(mode="json")
    data["hbm"]["rate_gb_s"]["value"] *= factor
    return Machine.model_validate(data)


@pytest.mark.parametrize("factor", [0.5, 2.0, 10.0])
def test_hbm_rate_is_no_part_of_a_price(factor: float) -> None:
    """Prices hold with everything in L2; only whether ports or chip limit what is streamed depends on HBM: where the
    chip is the faster, the ports' time per MiB appears, and it is theirs alone."""
    instance = built("ascend910b2", "decode")
    other = faster_hbm(instance.machine, factor)
    fuser = Fuser(instance.graph)
    for candidate in instance.candidates:
        fusion = fuser.judge(candidate.operators)
        assert fusion is not None
        for way in instance.implementations(candidate):
            again = price(fusion, other, way.tiling)
            assert again.model_copy(update={"miss_ns_per_mib": 0}) == way.cost.model_copy(update={"miss_ns_per_mib": 0})
            cores = way.tiling.aic or way.tiling.aiv
            ports = cores * 90
            assert again.miss_ns_per_mib == (math.ceil(2**20 / ports) if ports < 1190 * factor else 0)


def test_more_hbm_rate_never_slows_a_stream() -> None:
    """100 MiB over the channel and through the ports: the longer of the two shrinks or stays."""
    slow, fast = B2, faster_hbm(B2, 2.0)
    moved = 100 * 2**20
    for cores in range(1, 49):
        before, after = (max(hbm_ns(machine, moved), 100 * miss_ns_per_mib(machine, cores)) for machine in (slow, fast))
        assert after <= before
