"""Plan and simulation side by side on the benchmark's layers: where the cost model and the finer one part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from opt import api, benchmarks
from opt.simulation.plan import Simulated, Simulation, simulate
from opt.words import markdown_table, microseconds

LAYER_WITHIN, KERNEL_WITHIN = 0.10, 0.25
"""Shares by which plan and simulation may differ: over a layer, and in a kernel that counts."""

LONG_NS = 20_000
"""Planned time from which a kernel counts."""

HEADER = ("layer", "chip", "plan us", "simulated us", "ratio", "kernels that count", "furthest off", "ratio of that")
NUMBERS = ("plan us", "simulated us", "ratio", "kernels that count", "ratio of that")


@dataclass(frozen=True)
class Surveyed:
    """A layer of the benchmark, planned and simulated."""

    case: benchmarks.Case
    simulation: Simulation

    @property
    def ratio(self) -> float:
        """Simulated over planned latency."""
        return self.simulation.latency_ns / self.simulation.plan_ns

    @property
    def apart(self) -> bool:
        """Whether the latencies differ by more than :data:`LAYER_WITHIN`."""
        return abs(self.ratio - 1) > LAYER_WITHIN

    @property
    def long_kernels(self) -> list[Simulated]:
        """Kernels planned at :data:`LONG_NS` or more, the one furthest from its plan first."""
        found = [a for a in self.simulation.activities if a.plan_ns >= LONG_NS and a.kind in ("cube", "vector", "mix")]
        return sorted(found, key=lambda one: -abs(one.ratio - 1))

    @property
    def off(self) -> list[Simulated]:
        """The long kernels that differ by more than :data:`KERNEL_WITHIN`."""
        return [kernel for kernel in self.long_kernels if abs(kernel.ratio - 1) > KERNEL_WITHIN]


def survey(
    cases: Iterable[benchmarks.Case], time_limit_s: float, solver: str, seed: int, tell: Callable[[Surveyed], None]
) -> list[Surveyed]:
    """Solve each layer and run its plan; ``tell`` hears of each as it is done."""
    found = []
    for case in cases:
        instance = case.build()
        schedule = api.solve(instance, time_limit_s, solver, seed=seed).schedule
        found.append(Surveyed(case, simulate(instance, schedule)))
        tell(found[-1])
    return found


def cells(one: Surveyed) -> tuple[str, ...]:
    """A line of the table."""
    simulation, kernels = one.simulation, one.long_kernels
    furthest = (kernels[0].name, f"{kernels[0].ratio:.2f}") if kernels else ("", "")
    return (
        one.case.name,
        one.case.machine,
        microseconds(simulation.plan_ns),
        microseconds(simulation.latency_ns),
        f"{one.ratio:.3f}",
        f"{len(kernels)}",
        *furthest,
    )


def summary(found: Iterable[Surveyed]) -> str:
    """One sentence: how many layers and kernels agree."""
    found = list(found)
    kernels = sum(len(one.long_kernels) for one in found)
    return (
        f"{sum(not one.apart for one in found)} of {len(found)} layers within {LAYER_WITHIN:.0%}, "
        f"{kernels - sum(len(one.off) for one in found)} of {kernels} kernels of {LONG_NS // 1000} us and more "
        f"within {KERNEL_WITHIN:.0%}"
    )


def page(found: Iterable[Surveyed], command: str) -> str:
    """The survey as a page in Markdown; ``command`` writes it."""
    found = list(found)
    parts = [
        "# Plan and simulation",
        f"`{command}` writes this page: every layer of the benchmark, planned, then run tile by tile on in-order pipes "
        "with the buffers at their addresses and L2 and HBM shared by the cores that draw at that moment.",
        f"{summary(found)}.",
        markdown_table(HEADER, map(cells, found), NUMBERS),
    ]
    if parted := [one for one in found if one.apart or one.off]:
        parts += ["## Where they part", *(_why(one) for one in parted)]
    return "\n\n".join(parts) + "\n"


def _why(one: Surveyed) -> str:
    """What of a layer lies further apart than it may, in the terms of the simulation."""
    lines = []
    if one.apart:
        later = sorted(one.simulation.activities, key=lambda a: a.plan_ns - a.simulated_ns)[:3]
        shares = ", ".join(f"`{a.name}` {(a.simulated_ns - a.plan_ns) / 1000:+.1f} us ({a.stall})" for a in later)
        lines.append(f"latency {one.ratio:.3f} of the plan; most from {shares}")
    lines += [f"`{kernel.name}` {kernel.ratio:.2f} of the plan: {kernel.stall}" for kernel in one.off]
    return f"{one.case.name} on {one.case.machine}: " + "; ".join(lines) + "."
