"""The event simulation: agrees with the plan where it should, sees what the plan cannot, finds corrupted buffers."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import opt
from instances.errors import InvalidScheduleError
from instances.instance import Instance
from instances.machine import MemoryName
from instances.schedule import Schedule
from opt.cli import app
from opt.simulation import Simulation, simulate
from opt.simulation.program import Writer, overlapping
from opt.simulation.sharing import Flow, share_out

LAYERS = (
    ("llama-3-70b", "decode", "ascend910b2", 32, 8),
    ("llama-3-70b", "prefill", "ascend910b2", 1, 8),
    ("qwen3-30b-a3b", "decode", "ascend950pr", 32, 1),
    ("bert-base", "prefill", "ascend910b2", 1, 1),
)


def simulated(model: str, phase: str, machine: str, batch: int, tp: int) -> Simulation:
    decoding = phase == "decode"
    instance = opt.generate(
        model,
        phase=phase,  # type: ignore[arg-type]
        batch=batch,
        context=4096 if decoding else None,
        tokens=None if decoding or model == "bert-base" else 2048,
        layers=1,
        tp=tp,
        machine=machine,
        ends=False,
    )
    return simulate(instance, opt.solve(instance, 5, "dp", workers=1).schedule)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: f"{layer[0]}-{layer[1]}-{layer[2]}")
def test_plan_and_simulation_agree(layer: tuple[str, str, str, int, int]) -> None:
    """Within 10 % over the layer, and 25 % for every kernel of more than 20 us; no buffer is used too early."""
    found = simulated(*layer)
    assert found.corruptions == ()
    assert 0.9 <= found.latency_ns / found.plan_ns <= 1.1
    for one in found.activities:
        if one.plan_ns > 20_000 and one.kind in ("cube", "vector", "mix", "link"):
            assert 0.75 <= one.ratio <= 1.25, one


def test_same_plan_same_simulation(qwen: Instance, scripted: Schedule) -> None:
    first, second = simulate(qwen, scripted), simulate(qwen, scripted)
    assert first == second
    assert first.corruptions == ()
    assert len(first.activities) == len(scripted.kernels) + len(scripted.moves)


def moved(schedule: Schedule, operator: str, buffer: str, memory: MemoryName, offset: int) -> Schedule:
    """The schedule with one in-core buffer elsewhere."""
    kernels = []
    for kernel in schedule.kernels:
        buffers = kernel.buffers
        if operator in kernel.operators:
            buffers = tuple(
                b.model_copy(update={"offset_bytes": offset}) if (b.name, b.memory) == (buffer, memory) else b
                for b in buffers
            )
        kernels.append(kernel.model_copy(update={"buffers": buffers}))
    return schedule.model_copy(update={"kernels": tuple(kernels)})


@pytest.mark.parametrize(
    ("operator", "buffer", "memory"),
    [
        ("l0.gate_proj", "right", MemoryName.L1),
        ("l0.input_norm", "work", MemoryName.UB),
        ("l0.softmax", "values", MemoryName.L1),
        ("l0.softmax", "probabilities_out", MemoryName.UB),
    ],
)
def test_an_address_used_too_early_is_a_corruption(
    qwen: Instance, scripted: Schedule, operator: str, buffer: str, memory: MemoryName
) -> None:
    """Two buffers at one address: what one operation leaves there, another overwrites before it is read."""
    found = simulate(qwen, moved(scripted, operator, buffer, memory, 0))
    assert found.corruptions
    assert all(operator in one.kernel for one in found.corruptions)
    assert {one.memory for one in found.corruptions} == {memory.value}


def test_command(tmp_path: Path, qwen: Instance, scripted: Schedule) -> None:
    opt.save(qwen, tmp_path / "q.json")
    opt.save(scripted, tmp_path / "s.json")
    arguments = ["simulate", str(tmp_path / "q.json"), str(tmp_path / "s.json"), "-o", str(tmp_path / "t.md")]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.stderr
    assert "of the plan" in outcome.stderr
    assert "l0.gate_proj" in outcome.stdout
    assert (tmp_path / "t.md").read_text(encoding="utf-8").startswith("| activity")
    opt.save(moved(scripted, "l0.gate_proj", "right", MemoryName.L1, 0), tmp_path / "s.json")
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 4
    assert "do not hold what is read from them: first" in outcome.stderr


def test_a_plan_that_stands_still_is_told(qwen: Instance, scripted: Schedule) -> None:
    """A kernel that is to wait for itself by way of a core and a tensor: reader before its producer on the core."""
    by_name = {kernel.label: kernel for kernel in scripted.kernels}
    first, second = by_name["l0.gate_proj"], by_name["l0.down_proj"]
    swapped = {
        first.label: first.model_copy(update={"start_ns": second.start_ns, "end_ns": second.end_ns}),
        second.label: second.model_copy(update={"start_ns": first.start_ns, "end_ns": first.end_ns}),
    }
    kernels = tuple(swapped.get(kernel.label, kernel) for kernel in scripted.kernels)
    with pytest.raises(InvalidScheduleError, match="stands still"):
        simulate(qwen, scripted.model_copy(update={"kernels": kernels}))


# ------------------------------------------------------------------------------- parts


def test_flows_share_what_there_is() -> None:
    """Two cores of 10 on an L2 of 12: 6 each. One limited to 2 leaves 10 to the other. HBM binds only who draws it."""
    one, two = Flow(1.0, 10.0, 1, 0.0), Flow(1.0, 10.0, 1, 0.0)
    share_out([one, two], 12.0, 100.0)
    assert (one.now, two.now) == pytest.approx((6.0, 6.0))
    assert {one.held_by, two.held_by} == {"l2"}
    slow, quick = Flow(1.0, 2.0, 1, 0.0), Flow(1.0, 10.0, 1, 0.0)
    share_out([slow, quick], 12.0, 100.0)
    assert (slow.now, quick.now) == pytest.approx((2.0, 10.0))
    near, far = Flow(1.0, 10.0, 2, 0.0), Flow(1.0, 10.0, 2, 1.0)
    share_out([near, far], 100.0, 8.0)
    assert (near.now, far.now, far.held_by) == (pytest.approx(10.0), pytest.approx(4.0), "hbm")


def test_flags_follow_from_buffers() -> None:
    """A reader waits for the filler, the next filler for the readers, an extension for nobody."""
    slot = ("a", MemoryName.UB, 0)
    writer = Writer()
    fill = writer.add("mte2", 1.0, writes=[slot])
    use = writer.add("vector", 1.0, reads=[slot])
    more = writer.add("mte2", 1.0, extends=[slot])
    again = writer.add("vector", 1.0, reads=[slot])
    refill = writer.add("mte2", 1.0, writes=[slot])
    ops = writer.program(1).ops
    assert ops[use].waits == (fill,)
    assert ops[more].waits == ()
    assert ops[again].waits == (more,)
    assert ops[refill].waits == (use, more, again)
    assert ops[use].reads == ((slot, 1),)
    assert ops[refill].writes == ((slot, 2),)


def test_overlaps_are_found_by_address(scripted: Schedule) -> None:
    for kernel in scripted.kernels:
        assert overlapping(kernel.buffers) == {}
