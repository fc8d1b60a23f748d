"""Streams and events on schedules by hand, one reason to wait at a time."""

from __future__ import annotations

import networkx as nx

from instances.graph import Role
from instances.instance import Instance
from instances.kernels import KernelKind, Rule, Tiling
from instances.plan import Place, Pool
from instances.schedule import (
    Kernel,
    Move,
    MoveKind,
    Proof,
    Read,
    Residency,
    Schedule,
    Source,
    Status,
    Write,
)
from opt.plans.order import Order
from tests.tiny import Op, Way, tiny_instance, tiny_machine

WAY = (Way(busy=10, aic=1),)


def graph_of(*operators: tuple[str, str]) -> Instance:
    """Operators by name and the tensor that each reads; ``a`` makes ``ta``."""
    tensors = {f"t{name}": (Role.OUTPUT, 10) for name, _ in operators}
    tensors |= {read: (Role.WEIGHT, 10) for _, read in operators if read not in tensors}
    ops = [Op(name, KernelKind.CUBE, (read, "w"), (f"t{name}",), WAY) for name, read in operators]
    return tiny_instance(tiny_machine(), {**tensors, "w": (Role.WEIGHT, 10)}, ops)


def kernel(
    name: str, read: str, start: int, end: int, cores: tuple[int, ...], *, hbm: bool = False, far: bool = False
) -> Kernel:
    """A kernel of one operator; ``far``: reads from HBM, ``hbm``: writes there, else both in L2."""
    return Kernel(
        operators=(name,),
        kind=KernelKind.CUBE,
        rule=Rule.SINGLE,
        tiling=Tiling(tile={}, aic=len(cores), aiv=0),
        start_ns=start,
        end_ns=end,
        reads=(Read(tensor=read, source=Source.HBM if far else Source.L2),),
        writes=(Write(tensor=f"t{name}", l2=not hbm, hbm=hbm),),
        aic_ids=cores,
    )


def stay(tensor: str, low: int, size: int, start: int, end: int) -> Residency:
    return Residency(tensor=tensor, offset_bytes=low, size_bytes=size, start_ns=start, end_ns=end)


def order_of(
    instance: Instance,
    kernels: list[Kernel],
    moves: list[Move] | None = None,
    stays: list[Residency] | None = None,
    places: list[Place] | None = None,
) -> tuple[Order, nx.DiGraph]:
    """The order, and the graph of its streams and events."""
    latency = max(kernel.end_ns for kernel in kernels)
    bounds = {"hand": 1}
    schedule = Schedule(
        instance=instance.fingerprint,
        latency_ns=latency,
        kernels=tuple(kernels),
        moves=tuple(moves or ()),
        residencies=tuple(stays or ()),
        proof=Proof(
            solver="hand", status=Status.FEASIBLE, bound_ns=1, bound_by="hand", bounds_ns=bounds, covers="nothing"
        ),
    )
    order = Order(instance, schedule, [0] * len(kernels))
    pool = Pool(alignment_bytes=1, total_bytes=100, load_bytes=0, bound_bytes=0, places=tuple(places or ()))
    order.reuse_pool(pool)
    graph = nx.DiGraph()
    streams = order.streams()
    for stream in streams:
        nx.add_path(graph, stream.activities)
    graph.add_edges_from((event.record_after, event.wait_before) for event in order.events(streams))
    return order, graph


def test_a_core_is_waited_for() -> None:
    """``c`` follows ``b``, whose result it reads, and takes over the core that ``a`` holds for longer."""
    instance = graph_of(("a", "wa"), ("b", "wb"), ("c", "tb"))
    kernels = [
        kernel("a", "wa", 0, 100, (0,)),
        kernel("b", "wb", 0, 50, (1,)),
        kernel("c", "tb", 100, 150, (0, 1)),
    ]
    order, graph = order_of(instance, kernels, stays=[stay("tb", 0, 10, 0, 150)])
    name = {activity.kernel.operators[0]: activity.id for activity in order.kernels if activity.kernel}
    assert order.needs[name["c"]] == {name["a"]: {"core"}, name["b"]: {"core", "data"}}
    assert nx.has_path(graph, name["a"], name["c"])
    assert {stream.activities for stream in order.streams()} == {(name["a"],), (name["b"], name["c"])}


def test_what_is_read_from_hbm_was_written_there() -> None:
    """By a spill: its kernel alone is not enough."""
    instance = graph_of(("a", "wa"), ("b", "ta"))
    kernels = [kernel("a", "wa", 0, 50, (0,)), kernel("b", "ta", 90, 120, (0,), far=True)]
    spill = Move(tensor="ta", kind=MoveKind.SPILL, start_ns=50, end_ns=80)
    places = [Place(tensor="ta", offset_bytes=0, size_bytes=10, start_ns=50, end_ns=120)]
    order, graph = order_of(instance, kernels, [spill], [stay("ta", 0, 10, 0, 80)], places)
    assert order.needs["k1"]["m0"] == {"data"}
    assert nx.has_path(graph, "m0", "k1")


def test_addresses_in_the_pool_are_waited_for() -> None:
    """``e`` has nothing to do with ``ta``, but writes to where a fill still reads it."""
    instance = graph_of(("a", "wa"), ("b", "ta"), ("e", "we"))
    kernels = [
        kernel("a", "wa", 0, 50, (0,)),
        kernel("e", "we", 120, 160, (1,), hbm=True),
        kernel("b", "ta", 120, 150, (0,)),
    ]
    moves = [
        Move(tensor="ta", kind=MoveKind.SPILL, start_ns=50, end_ns=80),
        Move(tensor="ta", kind=MoveKind.FILL, start_ns=90, end_ns=110),
    ]
    stays = [stay("ta", 0, 10, 0, 80), stay("ta", 20, 10, 90, 150)]
    places = [
        Place(tensor="ta", offset_bytes=0, size_bytes=10, start_ns=50, end_ns=110),
        Place(tensor="te", offset_bytes=5, size_bytes=10, start_ns=120, end_ns=160),
    ]
    order, graph = order_of(instance, kernels, moves, stays, places)
    name = {activity.kernel.operators[0]: activity.id for activity in order.kernels if activity.kernel}
    assert order.needs["m1"]["m0"] == {"data"}
    assert "hbm_address" in order.needs[name["e"]]["m1"]
    assert nx.has_path(graph, "m1", name["e"])


def test_what_is_left_of_addresses_is_waited_for() -> None:
    """``ta`` lay at 0 to 100; ``tb`` takes the middle of it, and ``tc`` later both ends."""
    instance = graph_of(("a", "wa"), ("d", "ta"), ("b", "wb"), ("c", "wc"), ("e", "we"))
    kernels = [
        kernel("a", "wa", 0, 10, (0,)),
        kernel("d", "ta", 10, 20, (0,)),
        kernel("b", "wb", 20, 60, (0,)),
        kernel("c", "wc", 30, 50, (1,)),
        kernel("e", "we", 55, 70, (2,)),
    ]
    stays = [
        stay("ta", 0, 100, 0, 20),
        stay("tb", 40, 20, 20, 60),
        stay("tc", 0, 20, 30, 50),
        stay("te", 70, 30, 55, 70),
    ]
    order, graph = order_of(instance, kernels, stays=stays)
    name = {activity.kernel.operators[0]: activity.id for activity in order.kernels if activity.kernel}
    for taker in "bce":
        assert "l2_address" in order.needs[name[taker]][name["d"]]
        assert nx.has_path(graph, name["d"], name[taker])
    assert name["b"] not in order.needs[name["c"]]
