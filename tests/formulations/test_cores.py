"""Which cores a kernel runs on."""

from __future__ import annotations

import pytest

from formulations.cores import Ids, Job, assign_cores, partners
from instances.errors import NoScheduleError
from instances.kernels import KernelKind, Tiling
from instances.machine import Machine, load_machine


def job(start: int, end: int, kind: KernelKind, aic: int, aiv: int) -> Job:
    """A kernel that asks for so many cores."""
    return start, end, kind, Tiling(tile={}, aic=aic, aiv=aiv)


def check(machine: Machine, jobs: list[Job], assigned: list[Ids]) -> None:
    """As many as asked for, existing, free, and partners in mixed kernels."""
    for index, (start, end, kind, tiling) in enumerate(jobs):
        aic, aiv = assigned[index]
        assert (len(set(aic)), len(set(aiv))) == (tiling.aic, tiling.aiv)
        assert all(core < machine.aic_count for core in aic)
        assert all(core < machine.aiv_count for core in aiv)
        if kind is KernelKind.MIX:
            assert set(aiv) <= {core for i in aic for core in partners(machine, i)}
        for other in range(index):
            if jobs[other][0] < end and start < jobs[other][1]:
                assert not set(aic) & set(assigned[other][0])
                assert not set(aiv) & set(assigned[other][1])


def test_mixed_beside_cube_and_vector() -> None:
    """12 cube and 24 vector cores in use leave 12 whole groups to a mixed kernel if they are of the same groups."""
    machine = load_machine("ascend910b2")
    jobs = [
        job(0, 100, KernelKind.CUBE, 12, 0),
        job(0, 100, KernelKind.VECTOR, 0, 24),
        job(10, 50, KernelKind.MIX, 12, 24),
    ]
    check(machine, jobs, assign_cores(machine, jobs))


def test_vector_kernel_first() -> None:
    """The order of starts does not matter."""
    machine = load_machine("ascend910b2")
    jobs = [
        job(0, 100, KernelKind.VECTOR, 0, 20),
        job(5, 100, KernelKind.MIX, 10, 20),
        job(6, 100, KernelKind.CUBE, 14, 0),
    ]
    check(machine, jobs, assign_cores(machine, jobs))


def test_first_generation_runs_both_on_one_core() -> None:
    """On 910A a core is cube and vector core at once."""
    machine = load_machine("ascend910a")
    jobs = [job(0, 10, KernelKind.MIX, 16, 16), job(0, 10, KernelKind.VECTOR, 16, 16)]
    assigned = assign_cores(machine, jobs)
    check(machine, jobs, assigned)
    assert not set(assigned[0][0]) & set(assigned[1][1])


def test_impossible_pairing_is_said() -> None:
    """13 groups with both kinds of cores cannot be left by a cube kernel on 12 and two vector kernels on 48 - 24."""
    machine = load_machine("ascend910b2")
    jobs = [
        job(0, 100, KernelKind.VECTOR, 0, 25),
        job(0, 100, KernelKind.MIX, 12, 24),
    ]
    with pytest.raises(NoScheduleError, match="vector cores"):
        assign_cores(machine, jobs)
