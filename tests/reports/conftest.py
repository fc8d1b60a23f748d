"""A small instance and its schedule, by hand, with names that no page or trace may take for markup."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from instances import costs
from instances.fusion import Fusion
from instances.graph import Access, DType, Graph, Operator, OpKind, Role, Tensor, VectorClass
from instances.instance import Census, Instance
from instances.kernels import Buffer, Candidate, Cost, Implementation, KernelKind, Rule, Template, Tiling
from instances.machine import (
    Cube,
    Exposed,
    Figure,
    Grade,
    Hbm,
    L2Rate,
    Launch,
    Link,
    LinkSegment,
    Machine,
    Memory,
    MemoryName,
    Path,
    Pipe,
    Positive,
    Scope,
    Share,
    VectorUnit,
)
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

EVIL = "<script>alert(1)</script>"
QUOTE = "\"><img src=x onerror='alert(2)'>&amp;{{ 7 * 7 }}"
CONTROL = "bell\x07 nul\x00 turn\u202eed ]]>"
SIZE = 512 * 1024  # bytes of a [512, 512] float16 tensor

COSTS = {
    "up": Cost(
        head_ns=500,
        busy_ns=2000,
        tail_ns=100,
        engines_ns={"cube": 2000, "mte1": 900, "mte2": 1200, "fixp": 300, "l2": 700},
        l2_bytes=3 * SIZE,
    ),
    EVIL: Cost(
        head_ns=900,
        busy_ns=1000,
        tail_ns=200,
        engines_ns={"cube": 1000, "vector": 400, "l2": 300},
        l2_bytes=2 * SIZE,
        workspace_bytes=65536,
    ),
    QUOTE: Cost(head_ns=300, busy_ns=900, tail_ns=0, engines_ns={"vector": 900, "mte3": 100}, l2_bytes=2 * SIZE),
    CONTROL: Cost(head_ns=100, busy_ns=2400, tail_ns=0, engines_ns={"link": 2400}, l2_bytes=2 * SIZE),
}
"""Price of each kernel, by its first operator."""


def figure(value: float, source: str = "a measurement") -> Figure:
    return Figure(value=value, grade=Grade.MEASURED, source=source)


def share(value: float) -> Share:
    return Share(value=value, grade=Grade.INFERRED, source="a guess")


def positive(value: float) -> Positive:
    return Positive(value=value, grade=Grade.OFFICIAL, source=f"data sheet {EVIL}, https://example.org/sheet")


@pytest.fixture
def machine() -> Machine:
    def memory(scope: Scope, capacity: int) -> Memory:
        return Memory(scope=scope, capacity_bytes=positive(capacity), alignment_bytes=positive(512))

    path = Path(
        source=MemoryName.L2,
        target=MemoryName.L1,
        exists=True,
        evidence="guide",
        pipe=Pipe.MTE2,
        startup_cycles=figure(20),
        rate_bytes_per_cycle=positive(128),
    )
    missing = Path(source=MemoryName.L0C, target=MemoryName.UB, exists=False, evidence=f"guide, {QUOTE}")
    return Machine(
        name="toy",
        title=f"Toy {EVIL}",
        architecture="dav-test",
        coupled=False,
        aic=positive(4),
        aiv=positive(8),
        clock_mhz=positive(1000),
        memories={
            MemoryName.HBM: memory(Scope.CHIP, 2**34),
            MemoryName.L2: memory(Scope.CHIP, 2**22),
            MemoryName.L1: memory(Scope.AIC, 2**19),
            MemoryName.L0A: memory(Scope.AIC, 2**16),
            MemoryName.L0B: memory(Scope.AIC, 2**16),
            MemoryName.L0C: memory(Scope.AIC, 2**17),
            MemoryName.UB: memory(Scope.AIV, 2**18),
        },
        paths=(path, missing),
        hbm=Hbm(
            rate_gb_s=positive(1000),
            theory_gb_s=positive(1600),
            miss_bytes_per_cycle=positive(64),
            move_startup_ns=figure(200),
        ),
        l2=L2Rate(rate_gb_s=positive(4000), theory_gb_s=positive(5000)),
        cube=Cube(macs_per_cycle={DType.FLOAT16: positive(4096)}, startup_cycles=figure(10), fractal=positive(16)),
        vector=VectorUnit(
            repeat_bytes=positive(256),
            cycles_per_repeat={klass: positive(1.5) for klass in VectorClass},
            call_cycles=figure(12),
        ),
        launch=Launch(
            vector_ns=figure(300),
            cube_ns=figure(500),
            mix_ns=figure(900),
            collective_ns=figure(100),
            step_ns=figure(10),
            cold_step_ns=figure(20),
        ),
        exposed=Exposed(vector=share(0.5), cube=share(0), mix=share(0.25)),
        sync_ns=figure(50),
        link=Link(segments=(LinkSegment(startup_ns=figure(100), rate_gb_s=positive(20)),)),
    )


def operator(name: str, kind: OpKind, reads: Sequence[str], write: str) -> Operator:
    return Operator(
        name=name,
        kind=kind,
        dims={"m": 512, "n": 512},
        reads=tuple(Access(tensor=read, dims=("m", "n")) for read in reads),
        writes=(Access(tensor=write, dims=("m", "n")),),
        macs=2**20 if kind is OpKind.MATMUL else 0,
        link_bytes=SIZE if kind is OpKind.COLLECTIVE else 0,
    )


@pytest.fixture
def instance(machine: Machine) -> Instance:
    roles = {
        "x": Role.INPUT,
        f"weight {EVIL}": Role.WEIGHT,
        "h": Role.INTERMEDIATE,
        f"h {QUOTE}": Role.INTERMEDIATE,
        "s": Role.INTERMEDIATE,
        "a": Role.INTERMEDIATE,
        "y": Role.OUTPUT,
    }
    graph = Graph(
        name="toy graph",
        tensors=tuple(Tensor(name=n, shape=(512, 512), dtype=DType.FLOAT16, role=r) for n, r in roles.items()),
        operators=(
            operator("up", OpKind.MATMUL, ["x", f"weight {EVIL}"], "h"),
            operator(EVIL, OpKind.MATMUL, ["h", f"weight {EVIL}"], f"h {QUOTE}"),
            operator("gelu", OpKind.ACTIVATION, [f"h {QUOTE}"], "s"),
            operator(QUOTE, OpKind.ELEMENTWISE, ["x", "x"], "a"),
            operator(CONTROL, OpKind.COLLECTIVE, ["s", "a"], "y"),
        ),
    )
    template = Template(
        kind=KernelKind.VECTOR,
        rule=Rule.SINGLE,
        implementations=(Implementation(tiling=Tiling(tile={}, aic=0, aiv=1), cost=COSTS[QUOTE]),),
    )
    return Instance(
        name=f"toy on toy {EVIL}",
        origin={"model": f"toy {EVIL}", "phase": "decode", "batch": 4, "note": QUOTE},
        graph=graph,
        machine=machine,
        templates=(template,) * len(graph.operators),
        candidates=tuple(
            Candidate(operators=(op.name,), template=index, reads=(), writes=())
            for index, op in enumerate(graph.operators)
        ),
        census=Census(groups=5, structures=5, priced_tilings=77, kept_tilings=5, max_group=6),
    )


@pytest.fixture
def schedule(instance: Instance) -> Schedule:
    """A cube kernel, a mixed one, a vector kernel beside it on other cores, a collective, and two moves."""
    buffers = (
        Buffer(name=f"left {EVIL}", memory=MemoryName.L1, offset_bytes=0, size_bytes=65536, slots=2),
        Buffer(name="accumulator", memory=MemoryName.L0C, offset_bytes=0, size_bytes=131072, slots=1),
    )
    weight = f"weight {EVIL}"
    hidden = f"h {QUOTE}"
    kernels = (
        Kernel(
            operators=("up",),
            kind=KernelKind.CUBE,
            rule=Rule.SINGLE,
            tiling=Tiling(tile={"m": 128, "n": 256}, aic=4, aiv=0, parts={"k": 2}, l2_permille=500),
            start_ns=0,
            end_ns=2600,
            hbm_start_ns=600,
            hbm_ns=525,
            reads=(Read(tensor="x", source=Source.HBM), Read(tensor=weight, source=Source.L2)),
            writes=(Write(tensor="h", l2=True, hbm=False),),
            aic_ids=(0, 1, 2, 3),
            buffers=buffers,
        ),
        Kernel(
            operators=(EVIL, "gelu"),
            kind=KernelKind.MIX,
            rule=Rule.EPILOGUE,
            tiling=Tiling(tile={"m": 128}, aic=2, aiv=4),
            start_ns=2600,
            end_ns=4700,
            reads=(Read(tensor="h", source=Source.L2), Read(tensor=weight, source=Source.L2)),
            writes=(Write(tensor="s", l2=True, hbm=False),),
            aic_ids=(0, 2),
            aiv_ids=(0, 1, 4, 5),
            buffers=buffers,
            workspace_offset_bytes=3 * SIZE,
        ),
        Kernel(
            operators=(QUOTE,),
            kind=KernelKind.VECTOR,
            rule=Rule.SINGLE,
            tiling=Tiling(tile={"m": 16}, aic=0, aiv=2),
            start_ns=2700,
            end_ns=4801,
            hbm_start_ns=3300,
            hbm_ns=1501,
            reads=(Read(tensor="x", source=Source.HBM),),
            writes=(Write(tensor="a", l2=True, hbm=True),),
            aiv_ids=(6, 7),
        ),
        Kernel(
            operators=(CONTROL,),
            kind=KernelKind.LINK,
            rule=Rule.SINGLE,
            tiling=Tiling(tile={}, aic=0, aiv=0),
            start_ns=4801,
            end_ns=7301,
            hbm_start_ns=6776,
            hbm_ns=525,
            reads=(Read(tensor="s", source=Source.L2), Read(tensor="a", source=Source.L2)),
            writes=(Write(tensor="y", l2=False, hbm=True),),
        ),
    )
    return Schedule(
        instance=instance.fingerprint,
        latency_ns=7301,
        kernels=kernels,
        moves=(
            Move(tensor=weight, kind=MoveKind.PREFETCH, start_ns=0, end_ns=600),
            Move(tensor=hidden, kind=MoveKind.SPILL, start_ns=1200, end_ns=1925),
        ),
        residencies=(
            Residency(tensor=weight, offset_bytes=0, size_bytes=SIZE, start_ns=0, end_ns=4700),
            Residency(tensor="h", offset_bytes=SIZE, size_bytes=SIZE, start_ns=0, end_ns=4700),
            Residency(tensor="s", offset_bytes=2 * SIZE, size_bytes=SIZE, start_ns=2600, end_ns=7301),
            Residency(tensor="a", offset_bytes=4 * SIZE, size_bytes=SIZE, start_ns=2700, end_ns=7301),
        ),
        proof=Proof(
            solver=f"hand {EVIL}",
            status=Status.FEASIBLE,
            bound_ns=6900,
            bound_by="critical_path",
            bounds_ns={"critical_path": 6900, "compulsory_hbm": 2622, f"own {QUOTE}": 6899},
            covers=f"all decisions {EVIL}",
        ),
    )


@pytest.fixture(autouse=True)
def prices(monkeypatch: pytest.MonkeyPatch) -> dict[str, Cost]:
    """Fixed prices by first operator: what is tested here is what is shown, not what it costs."""

    def price_group(graph: Graph, machine: Machine, operators: Sequence[str], tiling: Tiling) -> costs.Priced:
        chosen = tuple(graph.operator[name] for name in operators)
        return costs.Priced(Fusion(graph, chosen, KernelKind.VECTOR, Rule.SINGLE), COSTS[operators[0]])

    monkeypatch.setattr(costs, "price_group", price_group)
    return COSTS
