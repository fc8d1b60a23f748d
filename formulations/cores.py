"""Which cores a kernel runs on, given when it runs and how many it needs.

Cores of one kind are interchangeable and a kernel may take any of them, so counts that fit at every instant can
always be assigned, save for one thing: a mixed kernel needs cube cores together with their own vector cores. Cube
kernels therefore take cube cores whose partners are busy first, and vector kernels likewise; where that is not
enough, an exact model decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from ortools.sat.python import cp_model

from instances.errors import NoScheduleError
from instances.kernels import KernelKind, Tiling
from instances.machine import Machine

Job = tuple[int, int, KernelKind, Tiling]
"""Start and end (ns), engines, and the tiling that says how many cores."""

Ids = tuple[tuple[int, ...], tuple[int, ...]]
"""Cube core ids and vector core ids."""


def partners(machine: Machine, aic: int) -> range:
    """Vector cores that work with a cube core in a mixed kernel."""
    return range(aic * machine.aiv_per_aic, (aic + 1) * machine.aiv_per_aic)


def assign_cores(machine: Machine, jobs: Sequence[Job]) -> list[Ids]:
    """Ids for each job; jobs come sorted by start. :class:`NoScheduleError` where there are none."""
    assigned: list[Ids] = []
    running: list[tuple[int, Ids]] = []  # end and cores
    for job in jobs:
        running = [(end, ids) for end, ids in running if end > job[0]]
        chosen = _choose(machine, job, [ids for _, ids in running])
        if chosen is None:
            return _exact(machine, jobs)
        assigned.append(chosen)
        running.append((job[1], chosen))
    return assigned


def _choose(machine: Machine, job: Job, running: Sequence[Ids]) -> Ids | None:
    _, _, kind, tiling = job
    busy_aic = {core for aic, _ in running for core in aic}
    busy_aiv = {core for _, aiv in running for core in aiv}
    free_aic = [core for core in range(machine.aic_count) if core not in busy_aic]
    free_aiv = [core for core in range(machine.aiv_count) if core not in busy_aiv]
    if kind is KernelKind.MIX or (machine.coupled and tiling.aic):
        whole = [core for core in free_aic if not busy_aiv.intersection(partners(machine, core))]
        if len(whole) < tiling.aic:
            return None
        aic = tuple(whole[: tiling.aic])
        aiv = [core for i in aic for core in partners(machine, i)]
        spare = [core for core in free_aiv if core not in aiv and core >= machine.aic_count * machine.aiv_per_aic]
        aiv = [*aiv, *spare][: tiling.aiv]
        return (aic, tuple(sorted(aiv))) if len(aiv) == tiling.aiv else None
    per = machine.aiv_per_aic
    free_aic.sort(key=lambda core: (not busy_aiv.intersection(partners(machine, core)), -core))
    free_aiv.sort(key=lambda core: (core // per not in busy_aic, -core))
    if len(free_aic) < tiling.aic or len(free_aiv) < tiling.aiv:
        return None
    return tuple(sorted(free_aic[: tiling.aic])), tuple(sorted(free_aiv[: tiling.aiv]))


def _exact(machine: Machine, jobs: Sequence[Job]) -> list[Ids]:
    """A CP-SAT model of who sits where, for the rare case that the rule of thumb gets stuck."""
    model = cp_model.CpModel()
    on_aic = [[model.new_bool_var(f"c{j},{i}") for i in range(machine.aic_count)] for j in range(len(jobs))]
    on_aiv = [[model.new_bool_var(f"v{j},{i}") for i in range(machine.aiv_count)] for j in range(len(jobs))]
    for j, (start, end, kind, tiling) in enumerate(jobs):
        model.add(sum(on_aic[j]) == tiling.aic)
        model.add(sum(on_aiv[j]) == tiling.aiv)
        if kind is KernelKind.MIX or (machine.coupled and tiling.aic):
            for aic in range(machine.aic_count):
                for aiv in partners(machine, aic):
                    model.add(on_aic[j][aic] == on_aiv[j][aiv])
        for other in range(j):
            if jobs[other][0] < end and start < jobs[other][1]:
                for mine, theirs in ((on_aic[j], on_aic[other]), (on_aiv[j], on_aiv[other])):
                    for a, b in zip(mine, theirs, strict=True):
                        model.add_at_most_one(a, b)
    solver = cp_model.CpSolver()
    solver.parameters.catch_sigint_signal = False  # whose process it is decides what Ctrl-C means
    solver.parameters.max_time_in_seconds = 10
    solver.parameters.num_workers = 1
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise NoScheduleError("overlapping mixed kernels cannot all have cube cores with their own vector cores")
    return [
        (
            tuple(i for i, flag in enumerate(on_aic[j]) if solver.boolean_value(flag)),
            tuple(i for i, flag in enumerate(on_aiv[j]) if solver.boolean_value(flag)),
        )
        for j in range(len(jobs))
    ]
