"""Why a schedule is as it is, in plain sentences that follow from computed facts.

Each :class:`Reason` is a sentence or two with the numbers they were made of. Nothing is guessed: durations are those of
the cost model, times those of the schedule, and where something is not known - whether another schedule would be
faster - nothing is said of it. Times in ns, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from instances.errors import InputError
from instances.instance import Instance
from instances.schedule import Kernel, Move, Schedule, Status
from reports import why_fused, why_placed
from reports.chain import Network, Part, Step, because
from reports.facts import KernelFacts, engine_label
from reports.moves import move_key
from reports.view import View
from reports.wording import Facts, Reason, amount, cores_words, ns, plural

__all__ = [
    "Reason",
    "Reasons",
    "critical_chain",
    "for_report",
    "what_binds",
    "why_here",
    "why_moved",
    "why_not_fused",
]


MOST_EXPLAINED = 150
"""Kernels, and moves, that a report explains."""


@dataclass
class Reasons:
    """All explanations of one schedule; what they share is worked out once.

    Raises
    ------
    InputError
        Where the schedule names what the instance does not have, or runs a kernel that has no price.
    """

    instance: Instance
    schedule: Schedule
    view: View = field(init=False)

    def __post_init__(self) -> None:
        self.view = View(self.instance, self.schedule)

    @cached_property
    def network(self) -> Network:
        """What waits for what."""
        return Network(self.view)

    @cached_property
    def chain(self) -> tuple[Step, ...]:
        """The steps that make the latency."""
        return self.network.chain()

    def kernel(self, row: KernelFacts) -> tuple[Reason, ...]:
        """Everything there is to say about a kernel."""
        return (*self.binds(row), *self.starts(row), *why_fused.neighbours(self.view, row))

    def tensor(self, name: str) -> tuple[Reason, ...]:
        """Everything there is to say about a tensor: its life, and its moves."""
        moves = [move for move in self.schedule.moves if move.tensor == name]
        return (*why_placed.place(self.view, name), *(r for move in moves for r in why_placed.move(self.view, move)))

    def binds(self, row: KernelFacts) -> tuple[Reason, ...]:
        """What makes a kernel as long as it is."""
        view, kernel, cost = self.view, row.kernel, self.view.cost(row)
        terms = view.terms(row)
        subject = f"kernel {row.label}"
        engines = sorted(cost.engines_ns.items(), key=lambda item: (-item[1], item[0]))
        fixed = terms.head_ns + terms.tail_ns
        facts: Facts = {
            "number": row.number,
            "duration_ns": row.duration_ns,
            "start_ns": kernel.start_ns,
            "end_ns": kernel.end_ns,
            "head_ns": terms.head_ns,
            "busy_ns": terms.busy_ns,
            "drawn_ns": terms.drawn_ns,
            "tail_ns": terms.tail_ns,
            "phase_ns": terms.phase_ns,
            "bound_by": row.bound_by,
            "engines_ns": dict(engines),
            "aic": kernel.tiling.aic,
            "aiv": kernel.tiling.aiv,
        }
        words = (
            f"It runs {ns(row.duration_ns)} on {cores_words(kernel.tiling)}, from {ns(kernel.start_ns)} to "
            f"{ns(kernel.end_ns)}: {ns(terms.head_ns)} of launch and fill, a body of "
            f"{ns(row.duration_ns - fixed)}, {ns(terms.tail_ns)} of drain."
        )
        found = [Reason("duration", subject, words, facts)]
        if engines:
            found.append(self._engines(subject, row, engines))
        if 2 * fixed > row.duration_ns:
            words = (
                f"{ns(fixed)} of its {ns(row.duration_ns)}, more than half, are launch, fill and drain: "
                "no engine binds it."
            )
            found.append(Reason("launch", subject, words, {"fixed_ns": fixed, "duration_ns": row.duration_ns}))
        found.append(self._phase(subject, row))
        return tuple(found)

    def _engines(self, subject: str, row: KernelFacts, engines: list[tuple[str, int]]) -> Reason:
        busy_ns = self.view.cost(row).busy_ns
        name, longest = engines[0]
        facts: Facts = {"engine": name, "engine_ns": longest, "busy_ns": busy_ns}
        words = f"Its busiest engine is {engine_label(name)} with {ns(longest)}"
        if len(engines) > 1:
            second, next_ns = engines[1]
            facts |= {"second": second, "second_ns": next_ns, "slack_ns": longest - next_ns}
            words += f", next {engine_label(second)} with {ns(next_ns)}, {ns(longest - next_ns)} less"
        if busy_ns > longest:
            words += f"; it does not hide all of the others, which adds {ns(busy_ns - longest)}"
        return Reason("engines", subject, words + ".", facts)

    def _phase(self, subject: str, row: KernelFacts) -> Reason:
        view, kernel, terms = self.view, row.kernel, self.view.terms(row)
        begin = kernel.hbm_start_ns
        if begin is None:
            return Reason(
                "hbm", subject, "It reads and writes nothing in HBM, all it touches lies in L2.", {"phase_ns": 0}
            )
        read, written = sum(view.streamed(row).values()), sum(view.written(row).values())
        longer = row.duration_ns - terms.own_ns
        wait = begin - kernel.start_ns - terms.head_ns
        facts: Facts = {
            "phase_ns": kernel.hbm_ns,
            "phase_start_ns": begin,
            "read_bytes": read,
            "written_bytes": written,
            "longer_ns": longer,
            "wait_ns": wait,
        }
        words = (
            f"Its phase on the HBM channel takes {ns(kernel.hbm_ns)} from {ns(begin)} on ({amount(read)} read, "
            f"{amount(written)} written)"
        )
        if longer == 0:
            words += " and does not lengthen the kernel."
        else:
            words += f" and makes the kernel {ns(longer)} longer."
        if wait > 0:
            before = [entry for entry in view.channel if kernel.start_ns + terms.head_ns < entry[1] <= begin]
            words += f" It begins {ns(wait)} after the body"
            words += f"; the channel carries {before[-1][2]} until {ns(before[-1][1])}." if before else "."
        if terms.drawn_ns > terms.busy_ns:
            facts["drawn_ns"] = terms.drawn_ns
            words += (
                f" Through the ports of its cores the bytes read take {ns(terms.drawn_ns)}, longer than any engine."
            )
        return Reason("hbm", subject, words, facts)

    def starts(self, row: KernelFacts) -> tuple[Reason, ...]:
        """Whether a kernel is on the chain that makes the latency, and by how much it could be late."""
        subject = f"kernel {row.label}"
        slack = self.network.slacks[row.number - 1]
        steps = [step for step in self.chain if step.number == row.number]
        facts: Facts = {
            "slack_ns": slack,
            "on_chain": bool(steps),
            "chain_ns": sum(step.length_ns for step in steps),
        }
        if steps:
            words = f"It is on the chain that makes the latency, with {ns(sum(s.length_ns for s in steps))}"
            reason = because(steps[0])
            words += f"; it starts when it does because {reason}." if reason else "."
        elif slack:
            words = (
                f"It could run {ns(slack)} later, in the same order of everything, without a later end of the whole."
            )
        else:
            words = "It is not on the chain shown, but on another as long: it could not run later."
        return (Reason("chain", subject, words, facts),)

    def summary(self, most: int = 5) -> tuple[Reason, ...]:
        """What binds the whole: bound and gap, the chain in sums and its longest steps, the longest kernels."""
        schedule, proof = self.schedule, self.schedule.proof
        whole = self.instance.name
        latency = schedule.latency_ns
        words = (
            f"The latency is {ns(latency)}; none of the schedules that the bound covers takes less than "
            f"{ns(proof.bound_ns)} ({proof.bound_by}), "
        )
        words += (
            "so this one is optimal." if proof.status is Status.OPTIMAL else f"{ns(latency - proof.bound_ns)} less."
        )
        facts: Facts = {"latency_ns": latency, "bound_ns": proof.bound_ns, "bound_by": proof.bound_by}
        found = [Reason("whole", whole, words, facts)]
        found += [self._resources(), *self._chain_sums()]
        early = max(self.network.earliest().values())
        if early < latency:
            words = (
                f"In the same order with everything as early as can be, this plan would take {ns(early)}, "
                f"{ns(latency - early)} less."
            )
            found.append(Reason("earliest", whole, words, {"earliest_ns": early, "saves_ns": latency - early}))
        longest = sorted(self.chain, key=lambda step: -step.length_ns)[:most]
        for step in sorted(longest, key=lambda one: one.start_ns):
            found.append(self._step(step))
        rows = sorted(self.view.rows, key=lambda row: (-row.duration_ns, row.number))[:most]
        for row in rows:
            slack = self.network.slacks[row.number - 1]
            words = (
                f"Kernel {row.label} takes {ns(row.duration_ns)}, bound by {engine_label(row.bound_by)}; "
                f"slack {ns(slack)}."
            )
            facts = {"number": row.number, "duration_ns": row.duration_ns, "slack_ns": slack}
            found.append(Reason("kernel", f"kernel {row.label}", words, facts | {"bound_by": row.bound_by}))
        return tuple(found)

    def _resources(self) -> Reason:
        """Which of the bounds by one argument is highest."""
        proof, latency = self.schedule.proof, self.schedule.latency_ns
        known = {name: value for name, value in proof.bounds_ns.items() if name in _ARGUMENTS}
        if not known:
            return Reason("binds", self.instance.name, "The proof names no bound of a single resource.", {})
        name = max(known, key=lambda one: known[one])
        others = sorted((n for n in known if n != name), key=lambda one: -known[one])
        words = f"What binds most by itself is {_ARGUMENTS[name]}: it alone takes {ns(known[name])} of {ns(latency)}"
        if others:
            words += f"; next {_ARGUMENTS[others[0]]} with {ns(known[others[0]])}"
        return Reason("binds", self.instance.name, words + ".", {"bounds_ns": dict(known), "binds": name})

    def _chain_sums(self) -> Iterable[Reason]:
        kernels = [step for step in self.chain if step.part not in (Part.MOVE, Part.PHASE, Part.IDLE)]
        channel = [step for step in self.chain if step.part in (Part.MOVE, Part.PHASE)]
        idle = sum(step.length_ns for step in self.chain if step.part is Part.IDLE)
        sums = [sum(step.length_ns for step in part) for part in (kernels, channel)]
        words = (
            f"The chain that makes the latency: {plural(len({s.number for s in kernels}), 'kernel')} with "
            f"{ns(sums[0])}, the HBM channel with {ns(sums[1])}, and {ns(idle)} in which nothing on it runs."
        )
        facts: Facts = {"kernels_ns": sums[0], "channel_ns": sums[1], "idle_ns": idle, "steps": len(self.chain)}
        yield Reason("chain", self.instance.name, words, facts)

    def _step(self, step: Step) -> Reason:
        what = step.label if step.part in (Part.KERNEL, Part.MOVE) else f"{step.part.value} of {step.label}"
        what = "nothing on the chain" if step.part is Part.IDLE else what
        words = f"{ns(step.start_ns)} to {ns(step.end_ns)}, {ns(step.length_ns)}: {what}"
        reason = because(step)
        words += f"; {reason}." if reason and step.part is not Part.IDLE else "."
        facts: Facts = {"part": step.part.value, "start_ns": step.start_ns, "end_ns": step.end_ns}
        return Reason("step", step.label, words, facts | {"cause": step.cause.value, "through": step.through})

    def steps(self) -> tuple[Reason, ...]:
        """The chain, step by step; together they last as long as the schedule."""
        return tuple(self._step(step) for step in self.chain)


_ARGUMENTS = {
    "hbm_traffic": "the HBM channel",
    "cube_work": "the cube cores",
    "vector_work": "the vector cores",
    "l2_work": "the rate of L2",
    "critical_path": "one kernel after the other",
}
"""Bounds by one argument each, and what it speaks of."""


def what_binds(instance: Instance, schedule: Schedule, kernel: Kernel | int) -> tuple[Reason, ...]:
    """Engine times of a kernel, the second engine and the distance to it, and its phase on the HBM channel."""
    reasons = Reasons(instance, schedule)
    return reasons.binds(_row(reasons.view, kernel))


def why_not_fused(instance: Instance, schedule: Schedule, kernel: Kernel | int) -> tuple[Reason, ...]:
    """For each kernel next to this one through a tensor: why the two are not one.

    The rule that forbids it; or where it does not fit; or what the fused kernel would take beside the two apart.
    """
    view = View(instance, schedule)
    return why_fused.neighbours(view, _row(view, kernel))


def why_moved(instance: Instance, schedule: Schedule, move: Move) -> tuple[Reason, ...]:
    """What an explicit move is for: who reads what it brings, or what it makes room for."""
    return why_placed.move(View(instance, schedule), move)


def why_here(instance: Instance, schedule: Schedule, tensor: str) -> tuple[Reason, ...]:
    """Where a tensor lies over its life, and why.

    Raises
    ------
    InputError
        Where the graph has no such tensor.
    """
    return why_placed.place(View(instance, schedule), tensor)


def critical_chain(instance: Instance, schedule: Schedule) -> tuple[Reason, ...]:
    """The steps that follow one another from time 0 to the latency, each with why it begins when it does."""
    return Reasons(instance, schedule).steps()


def for_report(instance: Instance, schedule: Schedule, most: int = MOST_EXPLAINED) -> dict[str, str]:
    """Why each kernel is not fused further and why each tensor is moved, by the names that a report knows them by.

    Kernels by label, moves by :func:`reports.moves.move_key`, a line per reason; the first ``most`` of each in order of
    start, since a reader of a whole model's report looks at a layer of it.
    """
    view = View(instance, schedule)
    found = {}
    for row in view.rows[:most]:
        neighbours = why_fused.neighbours(view, row)
        if neighbours:
            found[row.kernel.label] = "\n".join(reason.words for reason in neighbours)
    for move in sorted(schedule.moves, key=lambda item: item.start_ns)[:most]:
        found.setdefault(move_key(move), "\n".join(reason.words for reason in why_placed.move(view, move)))
    return found


def _row(view: View, kernel: Kernel | int) -> KernelFacts:
    for row in view.rows:
        if kernel in (row.number, row.kernel):
            return row
    which = f"number {kernel}" if isinstance(kernel, int) else kernel.label
    raise InputError(f"kernel {which} is not in the schedule; it has kernels 1 to {len(view.rows)}")
