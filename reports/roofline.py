"""The roofline's numbers: operations of each kernel, its bytes, its rate, and what the machine allows.

Operations are two per multiply-accumulate of the cube and one per element of a vector instruction on 32-bit lanes.
Rates are operations per ns, which is thousands of millions per second; intensities are operations per byte.
"""

from __future__ import annotations

from dataclasses import dataclass

from instances.graph import DType, Engine
from reports.facts import Facts, KernelFacts


@dataclass(frozen=True)
class Point:
    """Kernels that stand at one place of the plot; ``None`` for an intensity without such traffic."""

    rows: tuple[KernelFacts, ...]
    operations: int
    rate: float
    per_hbm_byte: float | None
    per_l2_byte: float | None

    @property
    def kind(self) -> str:
        """Kind of the kernels."""
        return self.rows[0].kernel.kind.value


@dataclass(frozen=True)
class Roof:
    """A most: of operations per ns where ``flat``, else of bytes per ns."""

    name: str
    kind: str
    value: float
    flat: bool


def points(facts: Facts) -> tuple[Point, ...]:
    """One point for all kernels with the same operations, bytes, duration and kind, in order of the first.

    Kernels without operations, such as collectives, are left out. HBM traffic is what the kernel itself reads and
    writes there: what a move has brought or takes away is not in it.
    """
    graph = facts.instance.graph
    found: dict[tuple[str, int, int, int, int], list[KernelFacts]] = {}
    for row in facts.kernels:
        chosen = [graph.operator[name] for name in row.kernel.operators]
        operations = sum(2 * operator.macs + sum(operator.vector.values()) for operator in chosen)
        if operations and row.duration_ns:
            hbm = row.hbm_read_bytes + row.hbm_written_bytes
            found.setdefault((row.kernel.kind.value, operations, hbm, row.l2_bytes, row.duration_ns), []).append(row)
    return tuple(
        Point(
            tuple(rows),
            operations,
            operations / duration_ns,
            operations / hbm if hbm else None,
            operations / l2 if l2 else None,
        )
        for (_, operations, hbm, l2, duration_ns), rows in found.items()
    )


def roofs(facts: Facts) -> tuple[Roof, ...]:
    """HBM and L2 by their sustained rates; all cube cores by operand type, all vector cores at their fastest."""
    machine, graph = facts.instance.machine, facts.instance.graph
    types = {graph.tensor[op.reads[0].tensor].dtype for op in graph.operators if op.engine is Engine.CUBE}
    lanes = machine.vector.repeat_bytes.value / DType.FLOAT32.size_bytes
    cycles = min(figure.value for figure in machine.vector.cycles_per_repeat.values())
    found = [Roof("HBM", "slope-hbm", machine.hbm.rate_gb_s.value, False)]
    found.append(Roof("L2", "slope-l2", machine.l2.rate_gb_s.value, False))
    for dtype in sorted(types):
        figure = machine.cube.macs_per_cycle.get(dtype)
        if figure is not None:
            rate = 2 * figure.value * machine.aic_count / machine.ns_per_cycle
            found.append(Roof(f"cube, {dtype.value}", "roof-cube", rate, True))
    found.append(Roof("vector", "roof-vector", lanes / cycles * machine.aiv_count / machine.ns_per_cycle, True))
    return tuple(found)
