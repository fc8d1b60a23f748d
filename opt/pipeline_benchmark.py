"""Exact prices beside the event simulation: kernels whose steady state is a loop, on both generations of chips.

A kernel is alone on the chip, under the tiling that takes least time by its estimate. The simulation runs it twice: as
``tilewright simulate`` writes kernels out, and in the order of its modulo schedule; the faster order counts, for a
price says what is within reach. Cores begin up to a load apart there, so that they are not in step; what counts is the
time of a core from its own first operation on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache

from instances.costs import draft, price
from instances.costs.terms import MIB, hbm_ns, launch_ns
from instances.fusion import Fuser, Fusion
from instances.generate import Phase, Precision
from instances.graph import Role
from instances.instance import Instance
from instances.kernels import Cost, KernelKind
from instances.machine import Machine
from instances.pipelines.derive import derive
from instances.pipelines.price import scheduled_cost
from opt import api
from opt.exact_prices import pipeline_cache
from opt.pipelines import above_bound
from opt.simulation.engine import Activity, Engine
from opt.simulation.kernels import programs
from opt.simulation.pipeline_kernel import pipeline_programs
from opt.simulation.program import Program
from opt.words import csv_table, markdown_table, microseconds, percent

OTHERS = "others"
"""Family of the kernels that the benchmark does not name."""

CHIPS = ("ascend910b2", "ascend950pr")
MODEL = "llama-3-8b"
TOKENS, BATCH, CONTEXT = 2048, 16, 4096
WITHIN = 0.05
"""Share by which exact price and simulation may differ."""


@dataclass(frozen=True)
class Case:
    """A kernel of a layer, by its operators without the layer's prefix."""

    family: str
    operators: tuple[str, ...]
    phase: Phase
    dtype: Precision = "bfloat16"

    @property
    def name(self) -> str:
        """How the table calls it."""
        what = f"{'+'.join(self.operators)}, {self.phase}"
        return f"{what}, w8a8" if self.dtype == "w8a8" else what


_ATTENTION = ("attn_scores", "softmax", "attn_values")
_GATED = ("gate_proj", "up_proj", "act")
CASES = (
    Case("attention", _ATTENTION, "prefill"),
    Case("attention", _ATTENTION, "decode"),
    Case("matmul and epilogue", ("o_proj", "attn_add"), "prefill"),
    Case("matmul and epilogue", ("q_proj", "rope_q"), "prefill"),
    Case("matmul and epilogue", ("down_proj", "mlp_add"), "prefill"),
    Case("matmul and epilogue", ("down_proj", "mlp_add"), "decode"),
    Case("gated MLP", _GATED, "prefill"),
    Case("gated MLP", _GATED, "decode"),
    Case("norm chain", ("attn_add", "post_norm"), "prefill"),
    Case("norm chain", ("attn_add", "post_norm", "post_normed_quant"), "prefill", "w8a8"),
    Case("norm chain", ("input_norm", "input_normed_quant"), "prefill", "w8a8"),
    Case("norm chain", ("attn_add", "post_norm", "post_normed_quant"), "decode", "w8a8"),
)


@dataclass(frozen=True)
class Row:
    """A kernel: its prices and what the simulation shows (ns), and its interval (ps; of one iteration, its length).

    ``in_order_ns`` is 0 where the simulation does not run the schedule's order. ``above`` is the interval's relative
    distance from its proven bound.
    """

    family: str
    name: str
    machine: str
    estimate_ns: int
    exact_ns: int
    written_ns: int
    in_order_ns: int
    interval_ps: int
    bound_by: str
    above: float

    @property
    def simulated_ns(self) -> int:
        """The faster of both orders."""
        return min(self.written_ns, self.in_order_ns or self.written_ns)

    @property
    def ratio(self) -> float:
        """Simulated over exact."""
        return self.simulated_ns / self.exact_ns

    @property
    def within(self) -> bool:
        """Whether they differ by no more than :data:`WITHIN`."""
        return abs(self.ratio - 1) <= WITHIN


HEADER = (
    "kernel",
    "chip",
    "estimate us",
    "exact us",
    "simulated us",
    "in the schedule's order us",
    "faster over exact",
    "estimate over faster",
    "interval us",
    "bound by",
    "above bound",
)
NUMBERS = (*HEADER[2:9], HEADER[10])


def run_all(only: str, tell: Callable[[Row], None]) -> list[Row]:
    """Every case whose name and chip hold a text; then, where there is none, every other kernel of these layers.

    ``tell`` hears of each.
    """
    rows = []
    for chip in CHIPS:
        for case in CASES:
            if only not in f"{case.name} {chip}":
                continue
            rows.append(run_case(case, chip))
            tell(rows[-1])
    done = {(row.name, row.machine) for row in rows}
    for chip in CHIPS if not only else ():
        for phase in ("prefill", "decode"):
            for case in _others(phase, chip):
                if (case.name, chip) not in done:
                    rows.append(run_case(case, chip))
                    tell(rows[-1])
    return rows


def _others(phase: Phase, chip: str) -> Iterator[Case]:
    """The first kernel of each structure in a layer that has a loop."""
    instance = _layer(phase, "bfloat16", chip)
    seen: set[int] = set()
    for candidate in instance.candidates:
        template = instance.templates[candidate.template]
        if candidate.template in seen or template.kind is KernelKind.LINK:
            continue
        seen.add(candidate.template)
        yield Case(OTHERS, tuple(name.removeprefix("l0.") for name in candidate.operators), phase)


@lru_cache(maxsize=4)
def _layer(phase: Phase, dtype: Precision, chip: str) -> Instance:
    prefill = phase == "prefill"
    return api.generate(
        MODEL,
        phase=phase,
        batch=1 if prefill else BATCH,
        tokens=TOKENS if prefill else None,
        context=None if prefill else CONTEXT,
        layers=1,
        dtype=dtype,
        machine=chip,
    )


def run_case(case: Case, chip: str) -> Row:
    """Price and simulate one kernel."""
    instance = _layer(case.phase, case.dtype, chip)
    machine = instance.machine
    names = tuple(f"l0.{name}" for name in case.operators)
    candidate = next(c for c in instance.candidates if c.operators == names)
    fusion = Fuser(instance.graph).judge(names)
    assert fusion is not None  # it is a candidate
    way = min(instance.implementations(candidate), key=lambda one: one.cost.least_ns)
    tiling = way.tiling.model_copy(update={"l2_permille": 1000})
    drafted = draft(fusion, machine, tiling)
    loop = derive(fusion, machine, tiling, drafted)
    schedule = None if loop is None else pipeline_cache().schedule(loop.body)
    if loop is None or schedule is None:
        raise ValueError(f"{case.name} on {chip} has no loop")
    exact = scheduled_cost(machine, drafted, 1000, loop, schedule)
    streamed = _streamed(fusion) if case.phase == "decode" else {}
    head = launch_ns(machine, drafted.kind, drafted.steps)

    def simulated(written: Sequence[Program]) -> int:
        engine = Engine(machine.l2.rate_gb_s.value, machine.hbm.rate_gb_s.value)
        kernel = Activity(case.name, programs=list(written), buffers=exact.buffers)
        engine.run([kernel])
        return round(head + kernel.core_ns)

    in_order = [] if streamed else list(pipeline_programs(fusion, tiling, loop, schedule))
    return Row(
        family=case.family,
        name=case.name,
        machine=chip,
        estimate_ns=_duration_ns(machine, price(fusion, machine, tiling), streamed),
        exact_ns=_duration_ns(machine, exact, streamed),
        written_ns=simulated(programs(fusion, machine, tiling, exact.buffers, streamed)),
        in_order_ns=simulated(in_order) if in_order else 0,
        interval_ps=schedule.ii_ps if loop.body.cyclic else schedule.span_ps(loop.body),
        bound_by=schedule.bound_by,
        above=above_bound(loop, schedule),
    )


def _streamed(fusion: Fusion) -> dict[str, int]:
    """What a decode step streams: weights and caches."""
    graph = fusion.graph
    return {
        access.tensor: graph.touched_bytes(access)
        for access in fusion.reads
        if graph.tensor[access.tensor].role in (Role.WEIGHT, Role.CACHE)
    }


def _duration_ns(machine: Machine, cost: Cost, streamed: dict[str, int]) -> int:
    """Head, body or HBM phase, tail, as the plan counts them."""
    phase = sum(hbm_ns(machine, amount) for amount in streamed.values())
    ports = sum(math.ceil(cost.miss_ns_per_mib * amount / MIB) for amount in streamed.values())
    return cost.head_ns + max(cost.busy_ns, phase, ports) + cost.tail_ns


def cells(row: Row) -> tuple[str, ...]:
    """A line of the table."""
    return (
        row.name,
        row.machine,
        microseconds(row.estimate_ns),
        microseconds(row.exact_ns),
        microseconds(row.written_ns),
        microseconds(row.in_order_ns) if row.in_order_ns else "-",
        f"{row.ratio:.3f}",
        f"{row.estimate_ns / row.simulated_ns:.3f}",
        microseconds(round(row.interval_ps / 1000)),
        row.bound_by,
        percent(row.above),
    )


def summary(rows: Iterable[Row]) -> str:
    """One sentence: how many agree, and how far the estimates are off."""
    rows = list(rows)
    worst = max(rows, key=lambda row: abs(row.ratio - 1), default=None)
    if worst is None:
        return "no kernel was asked for"
    agreed = sum(row.within for row in rows)
    by_estimate = sum(abs(row.simulated_ns / row.estimate_ns - 1) <= WITHIN for row in rows)
    return (
        f"{agreed} of {len(rows)} kernels within {100 * WITHIN:.0f} % of the simulation by exact prices "
        f"({by_estimate} by estimates); furthest {worst.ratio:.3f}, {worst.name} on {worst.machine}"
    )


def as_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV."""
    return csv_table([field.name for field in fields(Row)], map(astuple, rows))


def table(rows: Iterable[Row]) -> str:
    """The rows in Markdown."""
    return markdown_table(HEADER, map(cells, rows), NUMBERS)


def page(rows: Sequence[Row], command: str) -> str:
    """The comparison as a page in Markdown; ``command`` writes it."""
    parts = [
        "# Exact prices and simulation",
        f"`{command}` writes this page: kernels of a {MODEL} layer ({TOKENS} tokens of prefill; decode of {BATCH} "
        f"sequences with {CONTEXT} positions, weights and caches from HBM) alone on the chip, priced by estimate and "
        "by modulo schedule, and run by the event simulation as it writes them out and in the order of the schedule.",
        f"{summary(named(rows))}.",
    ]
    for family in dict.fromkeys(row.family for row in rows):
        mine = [row for row in rows if row.family == family]
        if family != OTHERS:
            parts.append(f"## {family[0].upper()}{family[1:]}\n\n{table(mine)}")
            continue
        apart = sorted((row for row in mine if not row.within), key=lambda row: -abs(row.ratio - 1))
        parts.append(
            f"## The other kernels of these layers\n\nOf the others, {summary(mine)}. Those that differ by more:"
        )
        parts.append(table(apart))
    return "\n\n".join(parts) + "\n"


def named(rows: Iterable[Row]) -> list[Row]:
    """The rows of the cases that the benchmark names."""
    return [row for row in rows if row.family != OTHERS]
