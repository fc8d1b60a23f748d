"""Tiny machines, instances and graphs for tests: sizes in bytes, times in ns, all chosen to be worked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from formulations.facts import Facts
from formulations.joint import JointModel
from formulations.joint_answers import read_back
from formulations.plan import Decisions, time_decisions
from instances.build import build_instance
from instances.graph import Access, DType, Graph, Operator, OpKind, Role, Tensor
from instances.graph_builder import GraphBuilder, work
from instances.instance import Census, Instance
from instances.kernels import Candidate, Cost, Implementation, KernelKind, Rule, Template, Tiling
from instances.machine import Machine, load_machine
from solvers.exhaustive import optimum
from solvers.sequential import unfused_decisions

random_examples = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""Settings of properties: the same examples on every run."""


def tiny_machine(
    l2_bytes: int = 1000,
    l2_unit: int = 1,
    aic: int = 2,
    aiv: int = 4,
    hbm_gb_s: float = 1.0,
    move_startup_ns: float = 10.0,
    launch_ns: float | None = None,
    link_startup_ns: float | None = None,
    name: str = "ascend910b2",
    in_core: float = 1.0,
) -> Machine:
    """A chip cut down: by default 1 byte per ns over HBM, 10 ns to start a move, 1000 bytes of L2.

    ``in_core`` is the share that is left of the memories of a core. The data is validated anew, so that no cached
    figure of the whole chip is left in it.
    """
    data = load_machine(name).model_dump(mode="json")
    data["name"] = "tiny"
    for memory in data["memories"].values():
        unit = memory["alignment_bytes"]["value"]
        memory["capacity_bytes"]["value"] = int(in_core * memory["capacity_bytes"]["value"]) // unit * unit
    data["memories"]["l2"]["capacity_bytes"]["value"] = l2_bytes
    data["memories"]["l2"]["alignment_bytes"]["value"] = l2_unit
    data["aic"]["value"] = aic
    data["aiv"]["value"] = aiv
    data["hbm"]["rate_gb_s"]["value"] = hbm_gb_s
    data["hbm"]["move_startup_ns"]["value"] = move_startup_ns
    if launch_ns is not None:
        data["launch"]["vector_ns"]["value"] = launch_ns
        data["launch"]["cube_ns"]["value"] = 2 * launch_ns
        data["launch"]["mix_ns"]["value"] = 3 * launch_ns
        data["launch"]["step_ns"]["value"] = launch_ns / 20
        data["sync_ns"]["value"] = launch_ns / 4
    if link_startup_ns is not None:
        for segment in data["link"]["segments"]:
            segment["startup_ns"]["value"] = link_startup_ns
    return Machine.model_validate(data)


@dataclass(frozen=True)
class Way:
    """One implementation, its price set by hand (ns, cores, thousandths of the L2 rate, bytes)."""

    busy: int
    head: int = 0
    tail: int = 0
    aic: int = 0
    aiv: int = 0
    permille: int = 0
    workspace: int = 0
    miss_per_mib: int = 0


@dataclass(frozen=True)
class Op:
    """An operator by the tensors it reads and writes, and the ways to run it alone."""

    name: str
    kind: KernelKind
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class Fused:
    """A group of operators that may be one kernel."""

    operators: tuple[str, ...]
    kind: KernelKind
    ways: tuple[Way, ...]


_KINDS = {
    KernelKind.CUBE: OpKind.MATMUL,
    KernelKind.VECTOR: OpKind.ELEMENTWISE,
    KernelKind.LINK: OpKind.COLLECTIVE,
}


def tiny_instance(
    machine: Machine,
    tensors: Mapping[str, tuple[Role, int]],
    operators: Sequence[Op],
    groups: Sequence[Fused] = (),
) -> Instance:
    """An instance with prices set by hand; ``tensors`` maps a name to its role and bytes.

    The replay prices kernels itself and would not agree: such instances serve to compare solvers.
    """
    graph = _graph(tensors, operators)
    candidates, templates = [], []
    for names, kind, ways in [
        *(((op.name,), op.kind, op.ways) for op in operators),
        *((group.operators, group.kind, group.ways) for group in groups),
    ]:
        inside = [graph.operator[name] for name in names]
        made = {access.tensor for operator in inside for access in operator.writes}
        read = dict.fromkeys(access.tensor for operator in inside for access in operator.reads)
        templates.append(
            Template(
                kind=kind,
                rule=Rule.SINGLE if len(names) == 1 else Rule.VECTOR_CHAIN,
                implementations=tuple(_implementation(n, way) for n, way in enumerate(ways)),
            )
        )
        candidates.append(
            Candidate(
                operators=names,
                template=len(templates) - 1,
                reads=tuple(t for t in read if t not in made),
                writes=tuple(
                    access.tensor
                    for operator in inside
                    for access in operator.writes
                    if graph.tensor[access.tensor].role is Role.OUTPUT
                    or set(graph.consumers[access.tensor]) - set(names)
                ),
            )
        )
    return _assemble(graph, machine, templates, candidates)


def _graph(tensors: Mapping[str, tuple[Role, int]], operators: Sequence[Op]) -> Graph:
    """Tensors of one axis of bytes; every operator loops over the bytes of each of its tensors.

    A matmul of one tensor multiplies it by itself.
    """
    return Graph(
        name="tiny",
        tensors=tuple(
            Tensor(name=name, shape=(size,), dtype=DType.INT8, role=role) for name, (role, size) in tensors.items()
        ),
        operators=tuple(
            Operator(
                name=op.name,
                kind=_KINDS[op.kind],
                dims={t: tensors[t][1] for t in (*op.reads, *op.writes)},
                reads=tuple(Access(tensor=t, dims=(t,)) for t in op.reads * (2 if len(op.reads) == 1 else 1)),
                writes=tuple(Access(tensor=t, dims=(t,)) for t in op.writes),
                macs=1 if op.kind is KernelKind.CUBE else 0,
                link_bytes=1 if op.kind is KernelKind.LINK else 0,
            )
            for op in operators
        ),
    )


def _implementation(number: int, way: Way) -> Implementation:
    return Implementation(
        tiling=Tiling(tile={"way": number + 1}, aic=way.aic, aiv=way.aiv, l2_permille=way.permille),
        cost=Cost(
            head_ns=way.head,
            busy_ns=way.busy,
            tail_ns=way.tail,
            engines_ns={"engine": way.busy},
            l2_bytes=0,
            workspace_bytes=way.workspace,
            miss_ns_per_mib=way.miss_per_mib,
        ),
    )


def _assemble(
    graph: Graph, machine: Machine, templates: Sequence[Template], candidates: Sequence[Candidate]
) -> Instance:
    ways = sum(len(template.implementations) for template in templates)
    return Instance(
        name="tiny",
        graph=graph,
        machine=machine,
        templates=tuple(templates),
        candidates=tuple(candidates),
        census=Census(
            groups=len(candidates),
            structures=len(templates),
            priced_tilings=ways,
            kept_tilings=ways,
            max_group=max(len(candidate.operators) for candidate in candidates),
        ),
    )


def trimmed(instance: Instance, ways: int, groups: int, first: int = 0) -> Instance:
    """The instance with fewer tilings and groups.

    At most so many implementations per template, from the ``first`` (counted round) on, and so many groups beside
    single operators.
    """
    templates = []
    for template in instance.templates:
        all_ways = template.implementations
        begin = first % len(all_ways)
        menu = (all_ways[begin:] + all_ways[:begin])[:ways]
        templates.append(template.model_copy(update={"implementations": menu}))
    single = [candidate for candidate in instance.candidates if len(candidate.operators) == 1]
    fused = [candidate for candidate in instance.candidates if len(candidate.operators) > 1]
    return _assemble(instance.graph, instance.machine, templates, [*single, *fused[:groups]])


@st.composite
def tiny_graphs(draw: st.DrawFn, most: int = 4) -> Graph:
    """Two to ``most`` operators: matmuls, vector operators and at most one collective, in chains with branches."""
    rows = draw(st.sampled_from((16, 48)), label="rows")
    loops = {"rows": rows, "a": 64, "b": draw(st.sampled_from((32, 128)), label="width")}
    builder = GraphBuilder(loops, DType.FLOAT16, tp=2)
    values = [("x", "a")]
    steps: list[tuple[str, str, str, str]] = []  # what, left, right, result
    for number in range(draw(st.integers(2, most), label="operators")):
        left, width = draw(st.sampled_from(values[-2:]), label="left")
        whats = ["matmul", "gelu", "norm"]
        right = ""
        if same := [name for name, other in values if other == width and name != left]:
            whats += ["add", "add"]
            right = draw(st.sampled_from(same), label="right")
        if all(step[0] != "reduce" for step in steps):
            whats.append("reduce")
        what = draw(st.sampled_from(whats), label="what")
        right = right if what == "add" else ""
        into = draw(st.sampled_from(("a", "b")), label="into") if what == "matmul" else width
        values.append((f"t{number}", into))
        steps.append((what, left, right, f"t{number}"))
    read = {name for _, left, right, _ in steps for name in (left, right)}
    widths = dict(values)
    made = {"x": builder.tensor("x", ("rows", "a"), Role.INPUT)}
    for what, left, right, result in steps:
        role = Role.INTERMEDIATE if result in read else Role.OUTPUT
        made[result] = builder.tensor(result, ("rows", widths[result]), role)
        _add_step(builder, what, made[left], made.get(right), made[result])
    return builder.graph("random")


def _add_step(builder: GraphBuilder, what: str, left: Access, right: Access | None, out: Access) -> None:
    """One operator; those of the vector unit work row by row."""
    size = builder.elements(out)
    name = f"{what}_{out.tensor}"
    if what == "matmul":
        columns = out.dims[-1]
        if columns == left.dims[-1]:  # the axes of a square weight need a loop each
            builder.loops[f"{columns}'"] = builder.loops[columns]
            columns = f"{columns}'"
        weight = builder.weight(f"w_{out.tensor}", (left.dims[-1], columns))
        out = Access(tensor=out.tensor, dims=("rows", columns))
        builder.matmul(name, (left, weight), out)
    elif what == "norm":
        scale = builder.weight(f"w_{out.tensor}", (out.dims[-1],))
        builder.op(name, OpKind.NORM, (left, scale), (out,), vector=work("rms_norm", size), whole=(out.dims[-1],))
    elif what == "reduce":
        builder.op(name, OpKind.COLLECTIVE, (left,), (out,), link_bytes=builder.size_bytes(left))
    elif what == "add" and right is not None:
        builder.op(name, OpKind.ELEMENTWISE, (left, right), (out,), vector=work("add", size))
    else:
        builder.op(name, OpKind.ACTIVATION, (left,), (out,), vector=work("gelu", size))


@st.composite
def tiny_instances(draw: st.DrawFn, most: int = 4) -> Instance:
    """A tiny graph on a machine with so little of everything that each capacity matters in some draw."""
    graph = draw(tiny_graphs(most))
    total = sum(tensor.size_bytes for tensor in graph.tensors)
    share = draw(st.sampled_from((0.2, 0.4, 0.6, 0.8, 2.0)), label="share of the tensors that fits into L2")
    name = draw(st.sampled_from(("ascend910b2", "ascend910a", "ascend950dt")), label="machine")
    aic = draw(st.sampled_from((1, 2)), label="cube cores")
    machine = tiny_machine(
        l2_bytes=max(512, int(share * total) // 512 * 512),
        l2_unit=512,
        aic=aic,
        aiv=aic if name == "ascend910a" else 2 * aic,
        hbm_gb_s=draw(st.sampled_from((7.0, 31.0)), label="HBM"),
        move_startup_ns=draw(st.sampled_from((0.0, 90.0)), label="start-up of moves"),
        launch_ns=draw(st.sampled_from((40.0, 300.0)), label="launch"),
        link_startup_ns=200.0,
        name=name,
        in_core=draw(st.sampled_from((1.0, 0.37, 0.113)), label="share of the memories in a core"),
    )
    first = draw(st.integers(0, 5), label="first tiling")
    return trimmed(build_instance(graph, machine, max_group=3), ways=2, groups=3, first=first)


@st.composite
def priced_instances(draw: st.DrawFn, most: int = 4) -> Instance:
    """Operators with prices drawn at random, in chains with branches, some of them fused in pairs.

    Wilder than what the cost model yields: any demand for cores, rates and workspaces, ports slower than the channel.
    """
    count = draw(st.integers(2, most), label="operators")
    sizes = st.integers(1, 9).map(lambda tens: 10 * tens)
    tensors: dict[str, tuple[Role, int]] = {}
    operators: list[Op] = []
    for number in range(count):
        kind = draw(st.sampled_from((KernelKind.CUBE, KernelKind.VECTOR, KernelKind.LINK)), label="kind")
        earlier = [t for op in operators for t in op.writes]
        reads = draw(st.lists(st.sampled_from(earlier), max_size=2, unique=True), label="reads") if earlier else []
        if not reads or draw(st.booleans(), label="source"):
            source = draw(st.sampled_from(("w", f"w{number}")), label="which")
            tensors.setdefault(source, (Role.WEIGHT, draw(sizes)))
            reads.append(source)
        tensors[f"t{number}"] = (Role.OUTPUT, draw(sizes))
        ways = tuple(draw(st.lists(_ways(kind), min_size=1, max_size=2), label="ways"))
        operators.append(Op(f"o{number}", kind, tuple(reads), (f"t{number}",), ways))
    read = {t for op in operators for t in op.reads}
    for name, (role, size) in tensors.items():
        if role is Role.OUTPUT and name in read and draw(st.booleans(), label="inner"):
            tensors[name] = (Role.INTERMEDIATE, size)
    total = sum(size for _, size in tensors.values())
    share = draw(st.sampled_from((0.3, 0.5, 0.7, 1.0, 3.0)), label="share of the tensors that fits into L2")
    machine = tiny_machine(l2_bytes=max(10, int(share * total)), move_startup_ns=draw(st.sampled_from((0.0, 15.0))))
    pairs = [
        (one.name, two.name)
        for one, two in pairwise(operators)
        if one.writes[0] in two.reads and KernelKind.LINK not in (one.kind, two.kind)
    ]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=2, unique=True), label="fused") if pairs else []
    groups = [Fused(pair, KernelKind.MIX, (draw(_ways(KernelKind.MIX)),)) for pair in chosen]
    return tiny_instance(machine, tensors, operators, groups)


def _ways(kind: KernelKind) -> st.SearchStrategy[Way]:
    """Prices of a kernel of some kind on two cube cores with two vector cores each."""
    cube = st.integers(1, 2) if kind in (KernelKind.CUBE, KernelKind.MIX) else st.just(0)
    return st.builds(
        lambda aic, aiv, **rest: Way(aic=aic, aiv=2 * aic if kind is KernelKind.MIX else aiv, **rest),
        aic=cube,
        aiv=st.integers(1, 4) if kind is KernelKind.VECTOR else st.just(0),
        busy=st.integers(1, 90),
        head=st.integers(0, 20),
        tail=st.integers(0, 20),
        permille=st.just(0) if kind is KernelKind.LINK else st.sampled_from((0, 300, 600, 1000)),
        workspace=st.sampled_from((0, 20, 60)) if kind is KernelKind.MIX else st.just(0),
        miss_per_mib=st.sampled_from((0, 0, 2 * 2**20)),
    )


def joint_optimum(instance: Instance) -> tuple[int, Decisions]:
    """The optimum that CP-SAT proves for the joint model (ns), and its decisions."""
    facts = Facts(instance)
    model = JointModel(instance, time_decisions(facts, unfused_decisions(facts)).latency_ns)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    status = solver.solve(model.model)
    assert status == cp_model.OPTIMAL, solver.status_name(status)
    return solver.value(model.latency), read_back(model, solver.value)


def best(instance: Instance) -> tuple[int, Decisions]:
    """The least latency (ns), on which joint model and exhaustive search agree, and the former's decisions."""
    latency, decisions = joint_optimum(instance)
    assert optimum(instance)[0] == latency
    return latency, decisions
