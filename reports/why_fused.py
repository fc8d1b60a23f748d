"""Why two kernels that share a tensor are not one: forbidden, too large, fits nowhere, or not worth it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from instances.build import ways_to_run
from instances.fusion import Fusion
from instances.kernels import Implementation, Tiling
from instances.machine import MemoryName
from instances.objections import objection
from instances.schedule import Source, Status
from reports.facts import KernelFacts
from reports.view import Terms, View, source_of, terms
from reports.wording import Facts, Reason, amount, cores_words, listed, ns, plural


class Verdict(StrEnum):
    """What stands between two kernels and one over both."""

    FORBIDDEN = "forbidden"
    TOO_LARGE = "too large"
    FITS_NOWHERE = "fits nowhere"
    NOT_LISTED = "not listed"
    CANDIDATE = "candidate"


def neighbours(view: View, row: KernelFacts) -> tuple[Reason, ...]:
    """A reason for each kernel next to this one, in order of start."""
    return tuple(_between(view, row, other, how) for other, how in _next_to(view, row))


def _next_to(view: View, row: KernelFacts) -> Iterator[tuple[KernelFacts, Facts]]:
    """Kernels that make what this one reads, read what it makes, or read the same close by."""
    made = {write.tensor for write in row.kernel.writes}
    read = {r.tensor for r in row.kernel.reads}
    for other in view.rows:
        if other is row:
            continue
        theirs = {r.tensor for r in other.kernel.reads}
        taken = sorted(read & {write.tensor for write in other.kernel.writes})
        given = sorted(made & theirs)
        shared = sorted(read & theirs)
        if taken or given:
            how = {"relation": "producer" if taken else "consumer", "tensors": taken or given}
        elif shared and view.fuser.connected((*row.kernel.operators, *other.kernel.operators)):
            how = {"relation": "sibling", "tensors": shared}
        else:
            continue
        yield other, how


def _between(view: View, row: KernelFacts, other: KernelFacts, how: Facts) -> Reason:
    names = tuple(sorted((*row.kernel.operators, *other.kernel.operators), key=lambda name: view.fuser.index[name]))
    link = {
        "producer": f"Kernel {other.label} makes {listed(how['tensors'])}, which it reads",
        "consumer": f"Kernel {other.label} reads {listed(how['tensors'])}, which it makes",
        "sibling": f"Kernel {other.label} reads {listed(how['tensors'])} as well",
    }[how["relation"]]
    facts: Facts = {"number": row.number, "other": other.number, **how}

    def reason(verdict: Verdict, words: str, more: Facts) -> Reason:
        return Reason("fusion", f"kernel {row.label}", f"{link}. {words}", {**facts, "verdict": verdict.value, **more})

    against = objection(view.fuser, names)
    if against is not None:
        words = f"The two may not be one kernel ({against.obstacle.value}): {against.words}."
        return reason(Verdict.FORBIDDEN, words, {"rule": against.obstacle.value})
    fusion = view.fuser.judge(names)
    assert fusion is not None  # nothing objects
    census = view.instance.census
    index = view.candidate.get(frozenset(names))
    if index is not None:
        ways = view.instance.implementations(view.instance.candidates[index])
        return reason(Verdict.CANDIDATE, *_priced(view, (row, other), fusion, ways))
    if len(names) > census.max_group:
        words = (
            f"Together they have {len(names)} operators; the instance's kernels have at most {census.max_group} "
            "(max_group)."
        )
        return reason(Verdict.TOO_LARGE, words, {"operators": len(names), "max_group": census.max_group})
    ways, misfit = ways_to_run(fusion, view.machine)
    if ways:
        words = (
            f"They may be one kernel by {fusion.rule.value}, and it would fit, but it is not among the instance's "
            "candidates"
        )
        if census.cut_short:
            words += f"; the search for groups was cut short around {plural(census.cut_short, 'operator')}"
        words += "."
        return reason(Verdict.NOT_LISTED, words, {"rule": fusion.rule.value, "cut_short": census.cut_short})
    words = f"By the rules they may be one kernel ({fusion.rule.value}), but it fits nowhere on {view.machine.name}: "
    more: Facts = {"rule": fusion.rule.value}
    if misfit is None:
        words += "no tiling applies to it, or its workspace exceeds L2."
    elif misfit.needed_bytes:
        tile = ", ".join(f"{loop} {extent}" for loop, extent in misfit.tile.items())
        memory = MemoryName(misfit.memory)
        more |= {"memory": misfit.memory, "needed_bytes": misfit.needed_bytes, "over_bytes": misfit.over_bytes}
        words += (
            f"the tiling that comes closest ({tile}) needs {amount(misfit.needed_bytes)} of {memory.value.upper()}, "
            f"{amount(misfit.over_bytes)} more than the {amount(view.machine.capacity(memory))} there are."
        )
    else:
        more |= {"lacks": misfit.memory}
        words += f"the tilings tried end at: {misfit.memory}."
    return reason(Verdict.FITS_NOWHERE, words, more)


def _priced(
    view: View, pair: tuple[KernelFacts, KernelFacts], fusion: Fusion, ways: tuple[Implementation, ...]
) -> tuple[str, Facts]:
    """What the fused kernel would take beside the two, and when it could run in this schedule."""
    streamed = [
        view.graph.touched_bytes(access)
        for access in fusion.reads
        if all(source_of(one.kernel, access.tensor) in (Source.HBM, None) for one in pair)
    ]
    flags = {write.tensor: write.hbm for one in pair for write in one.kernel.writes}
    written = [view.graph.tensor[a.tensor].size_bytes for a in fusion.writes if flags[a.tensor]]
    found: list[tuple[int, int, Terms]] = []
    for number, way in enumerate(ways):
        price = terms(view.machine, way.cost, streamed, written)
        found.append((price.alone_ns, number, price))
    fused_ns, number, _ = min(found, key=lambda item: item[:2])
    best = ways[number]
    apart = [view.terms(one).alone_ns for one in pair]
    more = fused_ns - sum(apart)
    hbm = [sum(view.streamed(one).values()) + sum(view.written(one).values()) for one in pair]
    hbm_fused = sum(streamed) + sum(written)
    l2 = [view.cost(one).l2_bytes for one in pair]
    facts: Facts = {
        "fused_ns": fused_ns,
        "apart_ns": apart,
        "more_ns": more,
        "aic": best.tiling.aic,
        "aiv": best.tiling.aiv,
        "fused_hbm_bytes": hbm_fused,
        "apart_hbm_bytes": sum(hbm),
        "fused_l2_bytes": best.cost.l2_bytes,
        "apart_l2_bytes": sum(l2),
    }
    change = f"{ns(more)} more" if more > 0 else f"{ns(-more)} less" if more < 0 else "as long"
    words = (
        f"As one kernel ({fusion.rule.value}) they would take {ns(fused_ns)} at best, on {cores_words(best.tiling)}, "
        f"with the channel to itself and its inputs where they lie now; apart, run as they are here, "
        f"{' + '.join(ns(one) for one in apart)}: {change}. HBM traffic {amount(hbm_fused)} instead of "
        f"{amount(sum(hbm))}, L2 traffic {amount(best.cost.l2_bytes)} instead of {amount(sum(l2))}."
    )
    return words + _in_schedule(view, pair, fusion, best, fused_ns, facts), facts


def _in_schedule(
    view: View,
    pair: tuple[KernelFacts, KernelFacts],
    fusion: Fusion,
    best: Implementation,
    fused_ns: int,
    facts: Facts,
) -> str:
    """When the fused kernel could run with everything else at its time; adds to ``facts``."""
    first, second = (one.kernel for one in pair)
    beside = min(first.end_ns, second.end_ns) - max(first.start_ns, second.start_ns)
    words = ""
    if beside > 0:
        facts["side_by_side_ns"] = beside
        words += f" In this schedule the two run side by side for {ns(beside)}."
    ready, last = 0, ""
    for access in fusion.reads:
        there = min(filter(None, (_arrival(view, one, access.tensor) for one in pair)), default=0)
        if there > ready:
            ready, last = there, access.tensor
    ends = max(first.end_ns, second.end_ns)
    late = ready + fused_ns - ends
    facts |= {"ready_ns": ready, "end_ns": ready + fused_ns, "ends_now_ns": ends, "later_ns": late}
    begin = f"Its last input, {last}, is there at {ns(ready)}" if last else "Its inputs are there at 0 ns"
    change = f"{ns(late)} after" if late > 0 else f"{ns(-late)} before" if late < 0 else "just when"
    words += (
        f" {begin}, so it would end at {ns(ready + fused_ns)} at the earliest, {change} the later of the two ends now"
    )
    words += "." if late <= 0 else f" ({ns(ends)})."
    crowd = _in_the_way(view, pair, best.tiling, ready, ready + fused_ns)
    if crowd:
        facts["in_the_way"] = [other.number for other in crowd]
        names = listed(f"{other.number} ({cores_words(other.kernel.tiling)})" for other in crowd)
        kernels = "kernel" if len(crowd) == 1 else "kernels"
        words += f" Its {cores_words(best.tiling)} are not all free then: {kernels} {names} would have to move."
    proof = view.schedule.proof
    if proof.status is Status.OPTIMAL:
        words += " The schedule is proven optimal over candidates that have this kernel: none with it is faster."
    elif late < 0:
        apart = view.schedule.latency_ns - proof.bound_ns
        words += f" The schedule is {ns(apart)} above its bound: whether one with this kernel is faster is not known."
    return words


def _in_the_way(
    view: View, pair: tuple[KernelFacts, KernelFacts], tiling: Tiling, start_ns: int, end_ns: int
) -> list[KernelFacts]:
    """Kernels beside which a tiling has not all of its cores at some instant, the pair itself left out."""
    others = [r for r in view.rows if r not in pair and r.kernel.start_ns < end_ns and start_ns < r.kernel.end_ns]
    found: dict[int, KernelFacts] = {}
    for instant in sorted({start_ns, *(r.kernel.start_ns for r in others if r.kernel.start_ns > start_ns)}):
        running = [r for r in others if r.kernel.start_ns <= instant < r.kernel.end_ns]
        aic = tiling.aic + sum(r.kernel.tiling.aic for r in running)
        aiv = tiling.aiv + sum(r.kernel.tiling.aiv for r in running)
        if (aic > view.machine.aic_count and tiling.aic) or (aiv > view.machine.aiv_count and tiling.aiv):
            found |= {r.number: r for r in running if r.kernel.tiling.aic or r.kernel.tiling.aiv}
    return [found[number] for number in sorted(found)]


def _arrival(view: View, row: KernelFacts, tensor: str) -> int | None:
    """When a tensor is where a kernel reads it; ``None`` where it does not read it, or it was there from the start."""
    source = source_of(row.kernel, tensor)
    if source is None:
        return None
    if source is Source.HBM:
        return view.in_hbm_ns(tensor) or None
    stays = [stay for stay in view.stays.get(tensor, ()) if row in stay.readers]
    return min((stay.arrival_ns for stay in stays), default=None)
