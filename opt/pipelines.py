"""What exact prices change: kernel by kernel, in the plan, and one kernel's pipeline as people read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from instances.instance import Instance
from instances.pipelines.course import course
from instances.pipelines.loop import KernelLoop, PipelineSchedule
from instances.schedule import Schedule
from opt import api
from opt.words import microseconds, percent
from solvers.interface import Result

if TYPE_CHECKING:
    from solvers.pipelining.exact import Piped, Repriced

HEADER = ("kernel", "rule", "estimate us", "exact us", "ratio", "interval us", "iterations", "bound by", "above bound")
NUMBERS = ("estimate us", "exact us", "ratio", "interval us", "iterations", "above bound")
OP_HEADER = ("starts us", "takes us", "stage", "pipe", "operation")
OP_NUMBERS = ("starts us", "takes us", "stage")
PLAN_HEADER = ("prices", "latency us", "bound us", "gap", "kernels", "groups that differ")
PLAN_NUMBERS = ("latency us", "bound us", "gap", "kernels")
SLOT_NAMES = {1: "single", 2: "double", 3: "triple", 4: "quadruple"}


def ps_as_us(ps: int) -> str:
    """Picoseconds as microseconds, to the nanosecond."""
    return microseconds(round(ps / 1000))


def above_bound(loop: KernelLoop, schedule: PipelineSchedule) -> float:
    """Relative distance of the interval (of a single iteration, its length) and its proven bound."""
    value = schedule.ii_ps if loop.body.cyclic else schedule.span_ps(loop.body)
    return value / max(1, schedule.bound_ps) - 1


def kernel_cells(way: Piped) -> tuple[str, ...]:
    """A line of the table of kernels."""
    both = (way.label, way.rule.value, microseconds(way.estimate.least_ns), microseconds(way.exact.least_ns))
    if way.loop is None or way.schedule is None:
        return (*both, f"{way.ratio:.3f}", "-", "-", "no loop", "-")
    apart = above_bound(way.loop, way.schedule)
    turns = f"{way.loop.iterations:.1f}".removesuffix(".0")
    interval = ps_as_us(way.schedule.ii_ps if way.loop.body.cyclic else way.schedule.span_ps(way.loop.body))
    return (*both, f"{way.ratio:.3f}", interval, turns, way.schedule.bound_by, percent(apart))


def price_line(found: Repriced, loops_found: int, loops_solved: int) -> str:
    """One sentence on how prices changed."""
    scheduled = found.scheduled
    every = sum(len(ways) for ways in found.ways)
    if not scheduled:
        return f"exact: none of {every} ways to run a kernel has a loop"
    ratios = sorted(way.ratio for way in scheduled)
    return (
        f"exact for {len(scheduled)} of {every} ways to run a kernel, x{ratios[0]:.3f} to x{ratios[-1]:.3f} of their "
        f"estimates, median x{median(ratios):.3f}; {loops_solved} loops scheduled, {loops_found} known"
    )


def pipeline_lines(way: Piped) -> list[tuple[str, str]]:
    """What there is to say of one kernel's pipeline."""
    lines = [
        ("kernel", f"{way.label} ({way.rule.value})"),
        ("tile", ", ".join(f"{loop} {size}" for loop, size in way.tiling.tile.items()) or "whole"),
        ("cores", f"{way.tiling.aic} cube, {way.tiling.aiv} vector"),
        ("price", f"{way.exact.least_ns} ns, estimate {way.estimate.least_ns} ns, x{way.ratio:.3f}"),
    ]
    if way.loop is None or way.schedule is None:
        return [*lines, ("loop", "none; the kernel keeps its estimate")]
    loop, schedule = way.loop, way.schedule
    body, run = loop.body, course(loop, schedule)
    turns = f"{loop.iterations:.2f}".rstrip("0").removesuffix(".")
    if body.cyclic:
        lines += [
            ("interval", f"{ps_as_us(schedule.ii_ps)} us, {turns} iterations of {len(body.ops)} operations"),
            (
                "in flight",
                f"{schedule.stages(body)} iterations; prologue {ps_as_us(schedule.prologue_ps(body))} us, "
                f"epilogue {ps_as_us(schedule.epilogue_ps(body))} us",
            ),
        ]
    else:
        lines.append(("iteration", f"one of {len(body.ops)} operations, {ps_as_us(schedule.span_ps(body))} us"))
    if loop.entry_ps:
        lines.append(("before", f"{ps_as_us(loop.entry_ps)} us for an operand that stays in L1"))
    lines += [
        ("bound", f"{ps_as_us(schedule.bound_ps)} us by {schedule.bound_by}, {_apart(above_bound(loop, schedule))}"),
        ("together", f"{ps_as_us(run.end_ps)} us, the last {run.last} iterations as soon as they may"),
    ]
    if schedule.lead:
        lines.append(("lead", f"scores run {schedule.lead} iterations ahead"))
    for ring in body.rings:
        slots = schedule.slots[ring.key]
        how = SLOT_NAMES.get(slots, str(slots))
        lines.append(("buffer", f"{ring.name} in {ring.memory.value}: {how}, {slots} x {ring.size_bytes:,} bytes"))
    busy = {
        name: sum(ps for _, ps in users) / max(1, schedule.ii_ps if body.cyclic else schedule.span_ps(body))
        for name, users in body.resources.items()
    }
    shares = ", ".join(f"{name} {percent(share)}" for name, share in sorted(busy.items(), key=lambda one: -one[1]))
    return [*lines, ("busy", shares)]


def _apart(share: float) -> str:
    return "proven least" if share <= 0 else f"{percent(share)} above it"


def op_cells(way: Piped) -> list[tuple[str, ...]]:
    """A line for each operation, in the order in which they start."""
    if way.loop is None or way.schedule is None:
        return []
    ops, schedule = way.loop.body.ops, way.schedule
    order = sorted(range(len(ops)), key=lambda number: (schedule.start_ps[number], number))
    return [
        (
            ps_as_us(schedule.start_ps[number]),
            ps_as_us(ops[number].busy_ps),
            str(schedule.start_ps[number] // schedule.ii_ps),
            ops[number].pipe,
            ops[number].name,
        )
        for number in order
    ]


def as_data(way: Piped) -> dict[str, Any]:
    """A kernel as other programs read it; times in ns, of the pipeline in ps."""
    data: dict[str, Any] = {
        "operators": list(way.operators),
        "rule": way.rule.value,
        "tiling": way.tiling.model_dump(mode="json"),
        "estimate_ns": way.estimate.least_ns,
        "exact_ns": way.exact.least_ns,
        "pipeline": None,
    }
    if way.loop is not None and way.schedule is not None:
        body = way.loop.body
        data["pipeline"] = {
            "iterations": way.loop.iterations,
            "entry_ps": way.loop.entry_ps,
            "cyclic": body.cyclic,
            "stages": way.schedule.stages(body),
            "prologue_ps": way.schedule.prologue_ps(body),
            "epilogue_ps": way.schedule.epilogue_ps(body),
            "operations": [op.name for op in body.ops],
            "pipes": [op.pipe for op in body.ops],
            "busy_ps": [op.busy_ps for op in body.ops],
            **way.schedule.model_dump(mode="json"),
        }
    return data


# ------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class PlanChange:
    """An instance planned with both prices, and the first plan as it runs under exact ones.

    ``kept`` is that plan, timed anew; ``None`` where it does not fit there.
    """

    estimated: Result
    exact: Result
    kept: Schedule | None

    @property
    def fresh(self) -> list[str]:
        """Kernels of the exact plan that the other does not have."""
        return _labels(self.exact.schedule, self.estimated.schedule)

    @property
    def gone(self) -> list[str]:
        """Kernels that only the estimated plan has."""
        return _labels(self.estimated.schedule, self.exact.schedule)

    def cells(self) -> list[tuple[str, ...]]:
        """Lines of the table."""
        lines = [("estimate", *_plan_cells(self.estimated.schedule), ", ".join(self.gone) or "none")]
        if self.kept is not None:
            known = (microseconds(self.kept.latency_ns), "-", "-", str(len(self.kept.kernels)))
            lines.append(("exact, that plan", *known, ""))
        return [*lines, ("exact", *_plan_cells(self.exact.schedule), ", ".join(self.fresh) or "none")]

    def sentence(self) -> str:
        """What the change comes to."""
        before, after = self.estimated.objective_ns, self.exact.objective_ns
        words = f"{after - before:+d} ns ({after / before - 1:+.2%}) with exact prices"
        if self.kept is not None:
            gain = self.kept.latency_ns - after
            words += f"; planning with them gains {gain} ns over the plan made with estimates"
        return words


def plan_change(
    instance: Instance, exact: Instance, time_limit_s: float, solver: str, workers: int, seed: int
) -> PlanChange:
    """Plan with estimated and with exact prices, each for so long."""
    from opt.what_if import plan_on

    before = api.solve(instance, time_limit_s, solver, workers=workers, seed=seed)
    kept = plan_on(exact, before.schedule)
    after = api.solve(exact, time_limit_s, solver, workers=workers, seed=seed, warm_start=kept)
    return PlanChange(before, after, kept)


def _labels(mine: Schedule, other: Schedule) -> list[str]:
    theirs = {kernel.operators for kernel in other.kernels}
    return [kernel.label for kernel in mine.kernels if kernel.operators not in theirs]


def _plan_cells(schedule: Schedule) -> tuple[str, ...]:
    proof = schedule.proof
    gap = schedule.latency_ns / max(1, proof.bound_ns) - 1
    return microseconds(schedule.latency_ns), microseconds(proof.bound_ns), percent(gap), str(len(schedule.kernels))


def chosen(found: Iterable[Piped], text: str) -> list[Piped]:
    """Kernels whose label holds a text."""
    return [way for way in found if text in way.label]


def by_change(found: Sequence[Piped]) -> list[Piped]:
    """The kernels whose price changed most first; those without a loop last."""
    return sorted(found, key=lambda way: (way.loop is None, -abs(way.ratio - 1), way.label))
