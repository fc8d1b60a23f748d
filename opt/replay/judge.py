"""The replay itself: one small check per rule of the problem statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from instances.build import structure
from instances.costs import Misfit
from instances.errors import InvalidScheduleError
from instances.fusion import Fuser, Fusion
from instances.instance import Instance
from instances.kernels import Cost, KernelKind, Tiling
from instances.machine import MemoryName
from instances.pricing import loop_in, price_in
from instances.schedule import Kernel, Schedule, Status
from opt.replay.pipelines import Fault, check_pipeline
from opt.replay.tensors import check_tensors
from opt.replay.timeline import KernelTimes, Traffic, kernel_times


@dataclass(frozen=True)
class Violation:
    """One broken rule: which, where, when (ns, ``None`` where time plays no part) and by how much."""

    rule: str
    place: str
    time_ns: int | None
    amount: float
    detail: str

    def __str__(self) -> str:
        when = "" if self.time_ns is None else f" at {self.time_ns} ns"
        return f"[{self.rule}] {self.place}{when}: {self.detail}"


@dataclass(frozen=True)
class Replay:
    """Outcome of a replay: the latency as recomputed, and what is wrong."""

    latency_ns: int
    violations: tuple[Violation, ...]
    hbm_bytes: int = 0
    l2_peak_bytes: int = 0

    @property
    def valid(self) -> bool:
        """True where no rule is broken."""
        return not self.violations

    def require_valid(self, what: str = "the schedule") -> Replay:
        """This replay; where a rule is broken, :class:`InvalidScheduleError`: by ``what``, and the first violation."""
        if self.violations:
            more = f" (and {len(self.violations) - 1} more)" if len(self.violations) > 1 else ""
            raise InvalidScheduleError(f"{what} breaks a rule: {self.violations[0]}{more}")
        return self


@dataclass
class _Book:
    """Collects violations."""

    violations: list[Violation] = field(default_factory=list)

    def note(self, rule: str, place: str, time_ns: int | None, amount: float, detail: str) -> None:
        """Record one broken rule."""
        self.violations.append(Violation(rule, place, time_ns, amount, detail))


@dataclass(frozen=True)
class Priced:
    """A kernel of the schedule with its group and price."""

    kernel: Kernel
    fusion: Fusion
    cost: Cost
    times: KernelTimes


def replay(instance: Instance, schedule: Schedule) -> Replay:
    """Replay a schedule; never raises on a bad one, but lists what is wrong with it."""
    book = _Book()
    if schedule.instance != instance.fingerprint:
        book.note("instance", "schedule", None, 1, "was made for another graph or machine; solve this instance anew")
    if schedule.seal != schedule.content_digest:
        book.note("seal", "schedule", None, 1, "its content does not match its seal: it was changed after solving")
    _check_cover(instance, schedule, book)
    priced = list(_price(instance, schedule, book))
    for item in priced:
        _check_buffers(instance, item, book)
        _check_cores_of(instance, item, book)
        _check_times(item, book)
    _check_cores(schedule, book)
    _check_l2_rate(schedule, book)
    _check_exclusive(
        "link",
        [
            (kernel.start_ns, kernel.end_ns, kernel.label)
            for kernel in schedule.kernels
            if kernel.kind is KernelKind.LINK
        ],
        book,
    )
    channel = [
        (kernel.hbm_start_ns, kernel.hbm_start_ns + kernel.hbm_ns, kernel.label)
        for kernel in schedule.kernels
        if kernel.hbm_start_ns is not None
    ]
    channel += [(move.start_ns, move.end_ns, f"{move.kind.value} of {move.tensor}") for move in schedule.moves]
    _check_exclusive("channel", channel, book)
    peak = check_tensors(
        instance,
        schedule,
        {item.kernel.operators: item.cost.workspace_bytes for item in priced},
        book.note,
    )
    latency = max(
        [*(item.times.end_ns for item in priced), *(kernel.end_ns for kernel in schedule.kernels)]
        + [move.end_ns for move in schedule.moves]
    )
    if latency != schedule.latency_ns:
        book.note(
            "latency",
            "schedule",
            latency,
            latency - schedule.latency_ns,
            f"says {schedule.latency_ns} ns, the replay ends at {latency} ns",
        )
    _check_proof(instance, schedule, book)
    return Replay(latency, tuple(book.violations), Traffic(instance).total(schedule), peak)


def _check_cover(instance: Instance, schedule: Schedule, book: _Book) -> None:
    """Every operator lies in exactly one kernel."""
    count = dict.fromkeys(instance.graph.operator, 0)
    for kernel in schedule.kernels:
        for name in kernel.operators:
            if name not in count:
                book.note("cover", kernel.label, kernel.start_ns, 1, f"operator {name!r} is not in the graph")
            else:
                count[name] += 1
    for name, times in count.items():
        if times != 1:
            book.note("cover", name, None, abs(times - 1), f"operator is in {times} kernels, not in one")


def _price(instance: Instance, schedule: Schedule, book: _Book) -> Iterator[Priced]:
    """Judge each kernel's group and price its tiling; kernels that fail are reported and left out."""
    fuser = Fuser(instance.graph)
    traffic = Traffic(instance)
    known: dict[tuple[str, str], Cost | Misfit | list[Fault]] = {}
    for kernel in schedule.kernels:
        place = kernel.label
        if any(name not in instance.graph.operator for name in kernel.operators):
            continue
        fusion = fuser.judge(kernel.operators)
        if fusion is None:
            book.note("group", place, kernel.start_ns, len(kernel.operators), "these operators may not be one kernel")
            continue
        if fusion.names != kernel.operators:
            book.note("group", place, kernel.start_ns, 1, f"operators are out of order; expected {fusion.names}")
            continue
        if (fusion.kind, fusion.rule) != (kernel.kind, kernel.rule):
            book.note(
                "kind",
                place,
                kernel.start_ns,
                1,
                f"says {kernel.kind.value}/{kernel.rule.value}, is {fusion.kind.value}/{fusion.rule.value}",
            )
        key = (structure(fusion), kernel.tiling.model_dump_json())
        if key not in known:
            known[key] = _cost(instance, fusion, kernel.tiling)
        cost = known[key]
        if isinstance(cost, Misfit):
            book.note(
                "tiling",
                place,
                kernel.start_ns,
                cost.over_bytes,
                f"tiling does not fit: {cost.memory}, {cost.over_bytes} bytes over",
            )
            continue
        if isinstance(cost, list):
            for fault in cost:
                book.note("pipeline", place, kernel.start_ns, fault.amount, fault.what)
            continue
        yield Priced(kernel, fusion, cost, kernel_times(traffic, kernel, cost))


def _cost(instance: Instance, fusion: Fusion, tiling: Tiling) -> Cost | Misfit | list[Fault]:
    """Price of a group under a tiling, or what is against it: it does not fit, or its pipeline is not legal."""
    try:
        found = loop_in(instance, fusion, tiling)
        faults = [] if found is None else check_pipeline(*found, instance.machine)
        return faults or price_in(instance, fusion, tiling)
    except Misfit as misfit:
        return misfit


def _check_buffers(instance: Instance, item: Priced, book: _Book) -> None:
    """In-core buffers: the ones the tiling needs, aligned, within capacity, without overlap."""
    kernel, machine = item.kernel, instance.machine
    wanted = {(b.name, b.memory, b.size_bytes, b.slots) for b in item.cost.buffers}
    given = [(b.name, b.memory, b.size_bytes, b.slots) for b in kernel.buffers]
    if set(given) != wanted or len(given) != len(item.cost.buffers):
        odd = sorted(str(b[0]) for b in set(given) ^ wanted) or ["one twice"]
        book.note("buffers", kernel.label, kernel.start_ns, len(odd), f"not the buffers its tiling needs: {odd}")
    for memory in MemoryName:
        spans = []
        for buffer in kernel.buffers:
            if buffer.memory is not memory:
                continue
            if buffer.offset_bytes % machine.alignment(memory):
                off = buffer.offset_bytes % machine.alignment(memory)
                book.note(
                    "alignment",
                    f"{kernel.label}: {buffer.name} in {memory.value}",
                    kernel.start_ns,
                    off,
                    f"address {buffer.offset_bytes} is {off} bytes past a multiple of {machine.alignment(memory)}",
                )
            top = buffer.offset_bytes + buffer.size_bytes * buffer.slots
            over = top - machine.capacity(memory)
            if over > 0:
                book.note(
                    "capacity",
                    f"{kernel.label}: {buffer.name} in {memory.value}",
                    kernel.start_ns,
                    over,
                    f"ends {over} bytes beyond {memory.value}",
                )
            spans.append((buffer.offset_bytes, top, buffer.name))
        for (_, high, first), (low, _, second) in pairwise(sorted(spans)):
            if low < high:
                book.note(
                    "overlap",
                    f"{kernel.label}: {first}, {second} in {memory.value}",
                    kernel.start_ns,
                    high - low,
                    f"buffers overlap by {high - low} bytes",
                )


def _check_cores_of(instance: Instance, item: Priced, book: _Book) -> None:
    """As many cores as the tiling says, existing, distinct; a mixed kernel's vector cores belong to its cube cores."""
    kernel, machine = item.kernel, instance.machine
    for label, ids, wanted, present in (
        ("aic", kernel.aic_ids, kernel.tiling.aic, machine.aic_count),
        ("aiv", kernel.aiv_ids, kernel.tiling.aiv, machine.aiv_count),
    ):
        if len(ids) != wanted or len(set(ids)) != len(ids):
            book.note(
                "core_count",
                kernel.label,
                kernel.start_ns,
                abs(len(set(ids)) - wanted) or 1,
                f"has {len(set(ids))} {label} cores, its tiling takes {wanted}",
            )
        for core in ids:
            if core >= present:
                book.note("core_id", kernel.label, kernel.start_ns, core, f"{label} {core} does not exist")
    if kernel.kind is KernelKind.MIX or (machine.coupled and kernel.aic_ids):
        per = machine.aiv_per_aic
        own = {aic * per + k for aic in kernel.aic_ids for k in range(per)}
        if kernel.kind is KernelKind.VECTOR:  # the spare vector cores of a first-generation chip have no cube core
            own |= set(range(machine.aic_count * per, machine.aiv_count))
        strangers = sorted(set(kernel.aiv_ids) - own)
        if strangers:
            book.note(
                "partners",
                kernel.label,
                kernel.start_ns,
                len(strangers),
                f"vector cores {strangers} do not belong to its cube cores",
            )


def _check_times(item: Priced, book: _Book) -> None:
    """Channel phase of the right length inside the body; end exactly where head, body and tail lead."""
    kernel, times, cost = item.kernel, item.times, item.cost
    if kernel.hbm_ns != times.phase_ns:
        book.note(
            "hbm_phase",
            kernel.label,
            kernel.hbm_start_ns,
            kernel.hbm_ns - times.phase_ns,
            f"holds the channel for {kernel.hbm_ns} ns, its traffic takes {times.phase_ns} ns",
        )
    if (kernel.hbm_start_ns is None) != (times.phase_ns == 0):
        book.note("hbm_phase", kernel.label, kernel.start_ns, times.phase_ns, "phase and traffic do not go together")
    if kernel.hbm_start_ns is not None and kernel.hbm_start_ns < kernel.start_ns + cost.head_ns:
        early = kernel.start_ns + cost.head_ns - kernel.hbm_start_ns
        book.note(
            "hbm_phase", kernel.label, kernel.hbm_start_ns, early, f"phase starts {early} ns before the body does"
        )
    if kernel.end_ns != times.end_ns:
        book.note(
            "duration",
            kernel.label,
            kernel.end_ns,
            kernel.end_ns - times.end_ns,
            f"says it ends at {kernel.end_ns} ns, it ends at {times.end_ns} ns",
        )


def _check_cores(schedule: Schedule, book: _Book) -> None:
    """No core runs two kernels at once."""
    runs: dict[tuple[str, int], list[tuple[int, int, str]]] = {}
    for kernel in schedule.kernels:
        for label, ids in (("aic", kernel.aic_ids), ("aiv", kernel.aiv_ids)):
            for core in set(ids):
                runs.setdefault((label, core), []).append((kernel.start_ns, kernel.end_ns, kernel.label))
    for (label, core), intervals in runs.items():
        _check_exclusive(f"{label} {core}", intervals, book, rule="cores")


def _check_exclusive(
    resource: str, intervals: Iterable[tuple[int, int, str]], book: _Book, rule: str | None = None
) -> None:
    """Intervals on one resource do not overlap."""
    for (_, end, first), (begin, _, second) in pairwise(sorted(intervals)):
        if begin < end:
            book.note(
                rule or resource,
                f"{first}, {second} on {resource}",
                begin,
                end - begin,
                f"both hold {resource} for {end - begin} ns",
            )


def _check_l2_rate(schedule: Schedule, book: _Book) -> None:
    """Shares of the L2 rate never exceed the whole."""
    worst = _peak([(k.start_ns, k.end_ns, k.tiling.l2_permille) for k in schedule.kernels])
    if worst[1] > 1000:
        book.note(
            "l2_rate", "schedule", worst[0], worst[1] - 1000, f"kernels share out {worst[1]} thousandths of the L2 rate"
        )


def _peak(loads: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """Instant and height of the highest sum of intervals (start, end, amount)."""
    events = sorted([(begin, amount) for begin, _, amount in loads] + [(end, -amount) for _, end, amount in loads])
    level = height = instant = 0
    for index, (time, change) in enumerate(events):
        level += change
        settled = index + 1 == len(events) or events[index + 1][0] > time
        if settled and level > height:
            instant, height = time, level
    return instant, height


def _check_proof(instance: Instance, schedule: Schedule, book: _Book) -> None:
    """The bound is the largest of its arguments, not above the latency, and the status says what that means."""
    proof = schedule.proof
    best = max(proof.bounds_ns.values())
    if proof.bound_ns != best or proof.bounds_ns.get(proof.bound_by) != best:
        book.note(
            "bound", proof.bound_by, None, proof.bound_ns - best, f"bound {proof.bound_ns} is not its best argument"
        )
    if proof.bound_ns > schedule.latency_ns:
        over = proof.bound_ns - schedule.latency_ns
        book.note("bound", proof.bound_by, None, over, f"bound is {over} ns above the latency it bounds")
    if proof.bound_ns == 0:
        book.note("bound", proof.bound_by, None, 0, "a bound of 0 proves nothing")
    if (proof.status is Status.OPTIMAL) != (proof.bound_ns == schedule.latency_ns):
        book.note("status", "schedule", None, 1, f"status {proof.status.value} does not follow from bound and latency")
    listed = proof.bounds_ns.get("hbm_traffic", 0)
    compulsory = Traffic(instance).compulsory_ns()
    if listed != compulsory:
        book.note(
            "bound", "hbm_traffic", None, listed - compulsory, f"says {listed} ns, the traffic takes {compulsory} ns"
        )
