"""The joint model on cases worked by hand.

The machine moves 1 byte per ns over HBM, a move takes 10 ns more to start, addresses in L2 have no alignment. There
are 2 cube cores and 4 vector cores. A kernel of ``head``, ``busy`` and ``tail`` whose phase on the channel lasts ``p``
takes ``head + max(busy, p) + tail``, if the channel is free when its head is over.
"""

from __future__ import annotations

import pytest
from ortools.sat.python import cp_model
from tiny import Fused, Op, Way, best, tiny_instance, tiny_machine

from formulations.joint import FAMILIES, JointModel
from instances.graph import Role
from instances.kernels import KernelKind
from instances.schedule import MoveKind, Source

CUBE, VECTOR, LINK, MIX = KernelKind.CUBE, KernelKind.VECTOR, KernelKind.LINK, KernelKind.MIX
INPUT, WEIGHT, INNER, OUTPUT = Role.INPUT, Role.WEIGHT, Role.INTERMEDIATE, Role.OUTPUT


def solve(model: JointModel) -> int:
    """Proven optimum of a model (ns)."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    assert solver.solve(model.model) == cp_model.OPTIMAL
    return solver.value(model.latency)


def test_prefetch_during_the_first_kernel_saves_50_ns() -> None:
    """a (10 + 100 + 20) reads x (40 bytes), b (10 + 50 + 5) reads a's result and w (150), writes y (30).

    Streaming w: a takes 10 + max(100, 40) + 20 = 130, b takes 10 + max(50, 150 + 30) + 5 = 195, in all 325.
    Prefetching w: a's phase lasts from 10 to 50, the move of 10 + 150 from 50 to 210. b starts at 210 and takes
    10 + max(50, 30) + 5 = 65, in all 275. The move first, from 0 to 160, puts off a's phase to 200 and its end to 220,
    in all 285. So 275, which saves 50.
    """
    instance = tiny_instance(
        tiny_machine(),
        {"x": (INPUT, 40), "h": (INNER, 20), "w": (WEIGHT, 150), "y": (OUTPUT, 30)},
        [
            Op("a", CUBE, ("x",), ("h",), (Way(head=10, busy=100, tail=20, aic=2),)),
            Op("b", CUBE, ("h", "w"), ("y",), (Way(head=10, busy=50, tail=5, aic=2),)),
        ],
    )
    latency, decisions = best(instance)
    assert latency == 275
    assert ("w", MoveKind.PREFETCH) in {(move.tensor, move.kind) for move in decisions.moves}
    without = JointModel(instance, 1000)
    for fill in without.fill.values():
        without.model.add(fill == 0)
    assert solve(without) == 325


@pytest.mark.parametrize(("l2_bytes", "expected"), [(1000, 180), (200, 700)])
def test_tensor_beyond_l2_goes_through_hbm(l2_bytes: int, expected: int) -> None:
    """a (10 + 100 + 5) reads x (40), makes h (300); b (10 + 50 + 5) reads h, makes y (30).

    With h in L2: 10 + max(100, 40) + 5 = 115, then 10 + max(50, 30) + 5 = 65, in all 180. Where L2 holds 200 bytes,
    a writes h out, 10 + max(100, 40 + 300) + 5 = 355, and b reads it back, 10 + max(50, 300 + 30) + 5 = 345, in all
    700. Fetching x before a would start (50 ns) gains nothing: the channel has 40 + 300 + 300 + 30 to do anyway, and
    10 before a's phase, 5 + 10 between the two and 5 after come on top.
    """
    instance = tiny_instance(
        tiny_machine(l2_bytes),
        {"x": (INPUT, 40), "h": (INNER, 300), "y": (OUTPUT, 30)},
        [
            Op("a", CUBE, ("x",), ("h",), (Way(head=10, busy=100, tail=5, aic=2),)),
            Op("b", CUBE, ("h",), ("y",), (Way(head=10, busy=50, tail=5, aic=2),)),
        ],
    )
    latency, decisions = best(instance)
    assert latency == expected
    assert decisions.kernels[1].reads["h"] is (Source.L2 if l2_bytes == 1000 else Source.HBM)


def test_output_is_spilled_while_its_reader_runs() -> None:
    """a (100) reads x (40), makes h (80), which is an output and read by b (100), which makes y (5).

    Written in a's phase, h makes a last 40 + 80 = 120, and b ends at 220. Left in L2 and spilled from 100 on, h is out
    at 190; y follows from 190 to 195; b runs from 100 to 200. Less than 100 + 100 is impossible.
    """
    instance = tiny_instance(
        tiny_machine(),
        {"x": (INPUT, 40), "h": (OUTPUT, 80), "y": (OUTPUT, 5)},
        [
            Op("a", VECTOR, ("x",), ("h",), (Way(busy=100, aiv=4),)),
            Op("b", VECTOR, ("h",), ("y",), (Way(busy=100, aiv=4),)),
        ],
    )
    latency, decisions = best(instance)
    assert latency == 200
    assert ("h", MoveKind.SPILL) in {(move.tensor, move.kind) for move in decisions.moves}
    without = JointModel(instance, 1000)
    without.model.add(without.spill["h"] == 0)
    assert solve(without) == 220


@pytest.mark.parametrize(("cores", "expected"), [(2, 100), (3, 120)])
def test_two_vector_kernels_overlap_on_half_the_cores(cores: int, expected: int) -> None:
    """Two independent kernels take 100 ns on ``cores`` of the 4 vector cores or 60 ns on all; 10 bytes in, 10 out.

    On 2 each they run side by side; their phases of 20 fit one after the other. 3 and 3 do not fit: 60 + 60.
    """
    ways = (Way(busy=100, aiv=cores), Way(busy=60, aiv=4))
    instance = tiny_instance(
        tiny_machine(),
        {"u": (INPUT, 10), "v": (INPUT, 10), "y": (OUTPUT, 10), "z": (OUTPUT, 10)},
        [Op("a", VECTOR, ("u",), ("y",), ways), Op("b", VECTOR, ("v",), ("z",), ways)],
    )
    assert best(instance)[0] == expected


@pytest.mark.parametrize(("permille", "expected"), [(500, 100), (525, 200)])
def test_shares_of_the_l2_rate_add_up(permille: int, expected: int) -> None:
    """A cube and a vector kernel of 100 ns run side by side at half the L2 rate each, one after the other at more."""
    instance = tiny_instance(
        tiny_machine(),
        {"u": (INPUT, 10), "v": (INPUT, 10), "y": (OUTPUT, 10), "z": (OUTPUT, 10)},
        [
            Op("a", CUBE, ("u",), ("y",), (Way(busy=100, aic=1, permille=permille),)),
            Op("b", VECTOR, ("v",), ("z",), (Way(busy=100, aiv=1, permille=permille),)),
        ],
    )
    assert best(instance)[0] == expected


def test_channel_serialises_two_phases() -> None:
    """A cube and a vector kernel of 10 ns each read 100 bytes and write 1: phases of 101, one after the other: 202.

    Without the channel, and without what is derived from it, each would end after 101.
    """
    instance = tiny_instance(
        tiny_machine(),
        {"u": (INPUT, 100), "v": (INPUT, 100), "y": (OUTPUT, 1), "z": (OUTPUT, 1)},
        [
            Op("a", CUBE, ("u",), ("y",), (Way(busy=10, aic=1),)),
            Op("b", VECTOR, ("v",), ("z",), (Way(busy=10, aiv=1),)),
        ],
    )
    assert best(instance)[0] == 202
    kept = {"cores", "l2_rate", "link", "l2_capacity", "addresses"}
    assert solve(JointModel(instance, 1000, leave_out=set(FAMILIES) - kept)) == 101


def test_prefetch_during_a_collective_saves_125_ns() -> None:
    """a (50) reads x (20); a collective (170) on its result; b (30) reads that and w (150), makes y (5).

    The move of 10 + 150 fits between a's phase, over at 20, and b's start at 50 + 170 = 220; b ends at 250, the sum of
    the three. Streaming w, b lasts max(30, 150 + 5) = 155 and ends at 375.
    """
    instance = tiny_instance(
        tiny_machine(),
        {"x": (INPUT, 20), "p": (INNER, 10), "q": (INNER, 10), "w": (WEIGHT, 150), "y": (OUTPUT, 5)},
        [
            Op("a", CUBE, ("x",), ("p",), (Way(busy=50, aic=2),)),
            Op("r", LINK, ("p",), ("q",), (Way(busy=170),)),
            Op("b", CUBE, ("q", "w"), ("y",), (Way(busy=30, aic=2),)),
        ],
    )
    latency, decisions = best(instance)
    assert latency == 250
    assert ("w", MoveKind.PREFETCH) in {(move.tensor, move.kind) for move in decisions.moves}
    without = JointModel(instance, 1000)
    for fill in without.fill.values():
        without.model.add(fill == 0)
    assert solve(without) == 375


@pytest.mark.parametrize(("kind", "aic", "expected"), [(LINK, 0, 300), (CUBE, 1, 200)])
def test_link_carries_one_collective_at_a_time(kind: KernelKind, aic: int, expected: int) -> None:
    """x is read by a kernel of 100 ns, its result by two more. On one cube core each, these run side by side: 200.

    Two collectives hold no core, but the link: 100 + 100 + 100. All tensors have 10 bytes.
    """
    ways = (Way(busy=100, aic=aic),)
    instance = tiny_instance(
        tiny_machine(),
        {"x": (INPUT, 10), "h": (INNER, 10), "y": (OUTPUT, 10), "z": (OUTPUT, 10)},
        [
            Op("first", VECTOR, ("x",), ("h",), (Way(busy=100, aiv=4),)),
            Op("a", kind, ("h",), ("y",), ways),
            Op("b", kind, ("h",), ("z",), ways),
        ],
    )
    assert best(instance)[0] == expected


@pytest.mark.parametrize(("l2_bytes", "expected"), [(190, 130), (150, 181)])
def test_prefetch_needs_room_in_l2(l2_bytes: int, expected: int) -> None:
    """a (20) reads x (5), makes h (100); b (100) makes g (30) of h; c (10) makes y (1) of g and w (60).

    With h, g and w in L2 at once, 190 bytes, w arrives while b runs, and 20 + 100 + 10 = 130 is left. In 150 bytes
    there are h and g while b runs, and no room for w: c streams it, max(10, 60 + 1) = 61, in all 181. The ways around
    that are longer: h through HBM makes a last 5 + 100, in all at least 105 + 100 + 10 = 215; g through HBM leaves
    h and w, 160 bytes; fetching w after b makes c start at 120 + 70.
    """
    instance = tiny_instance(
        tiny_machine(l2_bytes),
        {"x": (INPUT, 5), "h": (INNER, 100), "g": (INNER, 30), "w": (WEIGHT, 60), "y": (OUTPUT, 1)},
        [
            Op("a", CUBE, ("x",), ("h",), (Way(busy=20, aic=2),)),
            Op("b", VECTOR, ("h",), ("g",), (Way(busy=100, aiv=4),)),
            Op("c", CUBE, ("g", "w"), ("y",), (Way(busy=10, aic=2),)),
        ],
    )
    assert best(instance)[0] == expected


def test_port_slower_than_the_channel() -> None:
    """A kernel of 20 ns reads w (50 bytes) and writes 1; its ports draw 2 ns per byte, the channel gives 1.

    Streaming takes max(20, 50 + 1, 2 x 50) = 100. Moved into L2 first, w is there at 60 and the kernel ends at 80.
    """
    instance = tiny_instance(
        tiny_machine(),
        {"w": (WEIGHT, 50), "y": (OUTPUT, 1)},
        [Op("a", VECTOR, ("w",), ("y",), (Way(busy=20, aiv=4, miss_per_mib=2 * 2**20),))],
    )
    assert best(instance)[0] == 80


@pytest.mark.parametrize(("workspace", "expected"), [(0, 80), (60, 80), (61, 120)])
def test_fused_kernel_needs_its_workspace(workspace: int, expected: int) -> None:
    """a and b take 60 ns each, or 80 as one kernel with a workspace, in an L2 of 60 bytes; 10 bytes in, h 10, 10 out.

    One byte more of workspace than L2 has, and they run apart: 60 + 60, with h in L2.
    """
    instance = tiny_instance(
        tiny_machine(l2_bytes=60),
        {"x": (INPUT, 10), "h": (INNER, 10), "y": (OUTPUT, 10)},
        [
            Op("a", CUBE, ("x",), ("h",), (Way(busy=60, aic=2),)),
            Op("b", VECTOR, ("h",), ("y",), (Way(busy=60, aiv=4),)),
        ],
        [Fused(("a", "b"), MIX, (Way(busy=80, aic=2, aiv=4, workspace=workspace),))],
    )
    latency, decisions = best(instance)
    assert latency == expected
    assert len(decisions.kernels) == (1 if expected == 80 else 2)


def test_two_tensors_that_do_not_fit_together() -> None:
    """a (20) makes h (50) and p (10) of x (5); b (200) makes q (60) of p; c (10) makes y (1) of h and q. L2: 109 bytes.

    h and q take 110 bytes, so c streams one of them. If q: b writes it within its 200 ns, and c lasts
    max(10, 60 + 1) = 61, in all 20 + 200 + 61 = 281. If h: written in a's phase it makes a last 5 + 50 = 55, and c
    lasts 51, in all 306; moved out instead, it is in L2 until 20 + 60 = 80, where b starts.
    """
    instance = tiny_instance(
        tiny_machine(l2_bytes=109),
        {"x": (INPUT, 5), "h": (INNER, 50), "p": (INNER, 10), "q": (INNER, 60), "y": (OUTPUT, 1)},
        [
            Op("a", CUBE, ("x",), ("h", "p"), (Way(busy=20, aic=2),)),
            Op("b", VECTOR, ("p",), ("q",), (Way(busy=200, aiv=4),)),
            Op("c", CUBE, ("h", "q"), ("y",), (Way(busy=10, aic=2),)),
        ],
    )
    latency, decisions = best(instance)
    assert latency == 281
    assert decisions.kernels[2].reads == {"h": Source.L2, "q": Source.HBM}


def test_written_out_and_brought_back() -> None:
    """a (20) makes h (50) and p (10) of x (5); then q (120) of p, r (10) of q, s (10) of r in 100 ns each; c (10)
    makes y (1) of h and s. L2: 135 bytes.

    While q is there, p and q or q and r take 130 bytes and leave no room for h. Written in a's phase, h makes a last
    5 + 50 = 55; a move of 10 + 50 brings it back while s is made; in all 55 + 3 x 100 + 10 = 365. Without that move c
    would stream h and last 51 (406 in all), and it is better to have q written and streamed, which makes its maker and
    its reader last 120: 20 + 2 x 120 + 100 + 10 = 370.
    """
    instance = tiny_instance(
        tiny_machine(l2_bytes=135),
        {
            "x": (INPUT, 5),
            "h": (INNER, 50),
            "p": (INNER, 10),
            "q": (INNER, 120),
            "r": (INNER, 10),
            "s": (INNER, 10),
            "y": (OUTPUT, 1),
        },
        [
            Op("a", CUBE, ("x",), ("h", "p"), (Way(busy=20, aic=2),)),
            Op("to_q", VECTOR, ("p",), ("q",), (Way(busy=100, aiv=4),)),
            Op("to_r", VECTOR, ("q",), ("r",), (Way(busy=100, aiv=4),)),
            Op("to_s", VECTOR, ("r",), ("s",), (Way(busy=100, aiv=4),)),
            Op("c", CUBE, ("h", "s"), ("y",), (Way(busy=10, aic=2),)),
        ],
    )
    latency, decisions = best(instance)
    assert latency == 365
    assert ("h", MoveKind.FILL) in {(move.tensor, move.kind) for move in decisions.moves}
    without = JointModel(instance, 1000)
    without.model.add(without.fill["h"] == 0)
    assert solve(without) == 370


def test_blocks_that_fit_by_bytes_but_not_by_addresses() -> None:
    """Kernels without cores, with workspaces in hundreds of bytes, in an L2 of 550; between them tensors of 1 byte.

    A (10 ns, 3 hundred) comes before C (40, 1) and G (20, 2), C before F (10, 2), G before B (30, 3), E (20, 2) before
    D (20, 1) and D before X (20, none). Each chain takes 60, so that in 60 ns every kernel starts as early as it can:
    A 0-10, B 30-60, C 10-50, D 20-40, E 0-20, F 50-60, G 10-30. Workspaces never exceed 500 bytes. Yet there are no
    addresses: let B lie at 0 (else turn all over). C and D meet B and each other and lie at 300 and 400. E is beside A,
    so at 0 or 300, and meets C, so at 0. G shares 10-20 with C and E and lies at 200, C at 400, D at 300, where G is.
    All pairs that meet do so for 10 ns or more, so less than 10 ns more is no help. With 10 ns more D starts after G.
    """
    kernels = {"A": (10, 3), "B": (30, 3), "C": (40, 1), "D": (20, 1), "E": (20, 2), "F": (10, 2), "G": (20, 2)}
    before = {"C": "A", "G": "A", "F": "C", "B": "G", "D": "E", "X": "D"}
    instance = tiny_instance(
        tiny_machine(l2_bytes=550),
        {"to A": (INPUT, 1), "to E": (INPUT, 1)}
        | {f"of {name}": (INNER if name in before.values() else OUTPUT, 1) for name in (*kernels, "X")},
        [
            Op(
                name,
                VECTOR,
                (f"of {before[name]}" if name in before else f"to {name}",),
                (f"of {name}",),
                (Way(busy=busy, workspace=100 * hundreds),),
            )
            for name, (busy, hundreds) in (kernels | {"X": (20, 0)}).items()
        ],
    )
    assert solve(JointModel(instance, 300)) == 70
    assert solve(JointModel(instance, 300, leave_out=["addresses"])) == 60


def test_unknown_family_is_refused() -> None:
    """Leaving out a family that does not exist names those that do."""
    instance = tiny_instance(
        tiny_machine(), {"x": (INPUT, 5), "y": (OUTPUT, 1)}, [Op("a", CUBE, ("x",), ("y",), (Way(busy=20, aic=2),))]
    )
    with pytest.raises(ValueError, match="hbm_channel"):
        JointModel(instance, 100, leave_out=["no such family"])
