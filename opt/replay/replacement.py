"""Replay of a replacement plan: step by step, from the problem alone."""

from __future__ import annotations

from collections import Counter

from instances.memory_time import Timing
from instances.replacement import MemoryMap, Part, Plan, Problem, Stay


def plan_faults(problem: Problem, plan: Plan) -> list[str]:
    """Every rule that a plan breaks, a sentence each, with tensor, step and amount; empty where it is valid."""
    wrong: list[str] = []
    if plan.problem != problem.fingerprint:
        wrong.append("the plan was made for another problem")
    wrong += _order_faults(problem, plan)
    if wrong:
        return wrong
    stays: dict[str, list[Stay]] = {}
    for stay in plan.stays:
        if stay.tensor not in problem.tensor:
            wrong.append(f"{stay.tensor!r} stays in the scratchpad, but is no tensor of the problem")
        else:
            stays.setdefault(stay.tensor, []).append(stay)
    for name in plan.spilled:
        if name not in problem.tensor or problem.tensor[name].part is not Part.INNER:
            wrong.append(f"{name!r} is written back, but is no inner tensor")
    wrong += _place_faults(problem, [stay for listed in stays.values() for stay in listed])
    wrong += _use_faults(problem, plan, stays)
    traffic = extra_bytes(problem, plan)
    if traffic != plan.extra_bytes:
        wrong.append(f"traffic that is not compulsory is {traffic} bytes, the plan says {plan.extra_bytes}")
    best = max(plan.bounds_bytes.values(), default=0)
    if plan.bound_bytes > plan.extra_bytes or plan.bound_bytes != best:
        wrong.append(f"the bound of {plan.bound_bytes} bytes is above the traffic, or not the best of those listed")
    return wrong


def extra_bytes(problem: Problem, plan: Plan) -> int:
    """Traffic beyond the compulsory (bytes), counted anew."""
    moved = sum(problem.tensor[s.tensor].size_bytes for s in plan.stays if s.fetched and s.tensor in problem.tensor)
    moved += sum(problem.tensor[name].size_bytes for name in plan.spilled if name in problem.tensor)
    moved += sum(t.size_bytes for t in problem.tensors if t.part is Part.OUTPUT)
    return moved - problem.compulsory_bytes


def _order_faults(problem: Problem, plan: Plan) -> list[str]:
    wrong = []
    counted = Counter(plan.order)
    names = {operator.name: operator for operator in problem.operators}
    wrong += [f"operator {name!r} runs {counted[name]} times" for name in names if counted[name] != 1]
    wrong += [f"{name!r} is in the order, but is no operator" for name in counted if name not in names]
    made: set[str] = set()
    for step, name in enumerate(plan.order):
        if name not in names:
            continue
        late = [t for t in names[name].reads if t in problem.maker and t not in made]
        wrong += [f"operator {name!r} reads {t!r} at step {step}, before it is made" for t in late]
        made.update(names[name].writes)
    return wrong


def _place_faults(problem: Problem, stays: list[Stay]) -> list[str]:
    """Addresses: within the scratchpad, aligned, none shared at one time."""
    wrong = []
    steps = len(problem.operators)
    placed = []
    for stay in stays:
        high = stay.offset_bytes + problem.room(stay.tensor)
        if high > problem.capacity_bytes:
            wrong.append(f"{stay.tensor!r} ends {high - problem.capacity_bytes} bytes beyond the scratchpad")
        if stay.offset_bytes % problem.unit_bytes:
            wrong.append(f"{stay.tensor!r} lies at {stay.offset_bytes}, which is no multiple of {problem.unit_bytes}")
        if not stay.first <= stay.last < steps:
            wrong.append(f"{stay.tensor!r} stays from step {stay.first} to {stay.last}, of {steps}")
        placed.append((stay.first, stay.last, stay.offset_bytes, high, stay.tensor))
    placed.sort()
    live: list[tuple[int, int, int, int, str]] = []
    for one in placed:
        live = [other for other in live if other[1] >= one[0]]
        for other in live:
            shared = min(one[3], other[3]) - max(one[2], other[2])
            if shared > 0:
                wrong.append(f"{one[4]!r} and {other[4]!r} share {shared} bytes at step {one[0]}")
        live.append(one)
    return wrong


def _use_faults(problem: Problem, plan: Plan, stays: dict[str, list[Stay]]) -> list[str]:
    """Every operand is there while its operator runs, and what is fetched was off-chip before."""
    wrong = []
    step_of = {name: step for step, name in enumerate(plan.order)}
    spilled = set(plan.spilled)
    for tensor in problem.tensors:
        mine = sorted(stays.get(tensor.name, ()), key=lambda stay: stay.first)
        made = problem.maker.get(tensor.name)
        born = None if made is None else step_of[problem.operators[made].name]
        uses = [step_of[problem.operators[i].name] for i in problem.readers[tensor.name]]
        for use in uses if born is None else [born, *uses]:
            if not any(stay.first <= use <= stay.last for stay in mine):
                wrong.append(f"{tensor.name!r} is not in the scratchpad at step {use}, which uses it")
        for stay in mine:
            if not stay.fetched and stay.first != born:
                wrong.append(f"{tensor.name!r} is there at step {stay.first}, neither made then nor fetched")
            if stay.fetched and born is not None:
                if stay.first <= born:
                    wrong.append(f"{tensor.name!r} is fetched for step {stay.first}, before it is made")
                if tensor.part is Part.INNER and tensor.name not in spilled:
                    wrong.append(f"{tensor.name!r} is fetched for step {stay.first}, but never written back")
    return wrong


def map_faults(problem: Problem, answer: MemoryMap) -> list[str]:
    """Every rule that a memory map breaks, a sentence each; empty where it is valid."""
    wrong: list[str] = []
    if answer.problem != problem.fingerprint:
        wrong.append("the map was made for another problem")
    timing = Timing(problem)
    unknown = [one.tensor for one in answer.fast if one.tensor not in problem.tensor]
    wrong += [f"{name!r} lies in fast memory, but is no tensor of the problem" for name in unknown]
    counted = Counter(one.tensor for one in answer.fast)
    wrong += [f"{name!r} lies in fast memory {count} times" for name, count in counted.items() if count > 1]
    known = [one for one in answer.fast if one.tensor in problem.tensor]
    lives = [(one, *timing.life(one.tensor)) for one in known]
    wrong += _place_faults(
        problem,
        [
            Stay(tensor=one.tensor, first=first, last=last, offset_bytes=one.offset_bytes, fetched=False)
            for one, first, last in lives
        ],
    )
    total = timing.total_ns({one.tensor for one in known})
    if total != answer.time_ns:
        wrong.append(f"the operators take {total} ns, the map says {answer.time_ns}")
    if answer.bound_ns > answer.time_ns:
        wrong.append(f"the bound of {answer.bound_ns} ns is above the time")
    return wrong
