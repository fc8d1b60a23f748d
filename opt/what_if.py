"""What a little more of a chip would be worth: the same question on a changed machine, with what is proven of it.

Two answers to each question. The plan kept: the schedule's own decisions in their order, timed anew, which takes no
search and gives a latency that the changed machine certainly reaches. Planned anew: the kernels are priced again and
the solver is asked; then the new latency lies between its bound and what was found, and so does the saving.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from instances.build import build_instance
from instances.errors import InputError, TilewrightError
from instances.instance import Instance, Pricing
from instances.machine import Machine
from instances.schedule import Schedule, Status
from opt import api
from opt.exact_prices import exact, in_step
from opt.replay import replay
from reports.chain import Network
from reports.view import View
from reports.wording import ns
from solvers.interface import Options

KIB = 1024

LEAST_S = 0.2
"""Seconds below which nothing is asked any more."""


@dataclass(frozen=True)
class Question:
    """A change of a machine: a short name, words, and the change itself on the machine's data."""

    name: str
    words: str
    change: Callable[[dict[str, Any]], None]


def _more_ub(data: dict[str, Any]) -> None:
    data["memories"]["ub"]["capacity_bytes"]["value"] += KIB


def _more_cores(data: dict[str, Any]) -> None:
    data["aiv"]["value"] += max(1, int(data["aiv"]["value"]) // int(data["aic"]["value"]))
    data["aic"]["value"] += 1


def _faster_hbm(data: dict[str, Any]) -> None:
    data["hbm"]["rate_gb_s"]["value"] *= 1.01


def _more_l2(data: dict[str, Any]) -> None:
    unit = int(data["memories"]["l2"]["alignment_bytes"]["value"])
    more = int(data["memories"]["l2"]["capacity_bytes"]["value"]) * 101 // 100
    data["memories"]["l2"]["capacity_bytes"]["value"] = -(-more // unit) * unit


def _faster_l2(data: dict[str, Any]) -> None:
    data["l2"]["rate_gb_s"]["value"] *= 1.01


QUESTIONS = (
    Question("ub", "1 KiB more of UB", _more_ub),
    Question("core", "one more AIC with its AIVs", _more_cores),
    Question("hbm", "1 % more HBM rate", _faster_hbm),
    Question("l2-rate", "1 % more L2 rate", _faster_l2),
    Question("l2-size", "1 % more L2", _more_l2),
)
"""What is asked."""


@dataclass(frozen=True)
class Kept:
    """A question answered with the plan kept: the latency that the changed machine reaches with it (ns).

    ``saves_ns`` is against the same plan on the machine as it is, both with everything as early as can be.
    """

    question: Question
    latency_ns: int
    saves_ns: int

    @property
    def words(self) -> str:
        """A sentence."""
        change = f"{ns(self.saves_ns)} less" if self.saves_ns >= 0 else f"{ns(-self.saves_ns)} more"
        return f"With {self.question.words} this very plan would take {ns(self.latency_ns)}, {change}."


@dataclass(frozen=True)
class Answer:
    """A question answered by planning anew. Times in ns.

    ``latency_ns`` was found, or is reached with the plan at hand, and ``bound_ns`` is proven on the changed machine,
    ``base_latency_ns`` and ``base_bound_ns`` on the machine as it is; so the change saves between ``least_ns`` and
    ``most_ns``, of which the first may be negative: not shown to save anything. ``warm``: whether the search started
    from the plan at hand.
    """

    question: Question
    latency_ns: int
    bound_ns: int
    bound_by: str
    base_latency_ns: int
    base_bound_ns: int
    warm: bool

    @property
    def least_ns(self) -> int:
        """What the change saves at least."""
        return self.base_bound_ns - self.latency_ns

    @property
    def most_ns(self) -> int:
        """What the change saves at most."""
        return self.base_latency_ns - self.bound_ns

    @property
    def words(self) -> str:
        """A sentence."""
        least, most = self.least_ns, self.most_ns
        if least == most:
            verdict = f"saves {ns(most)}, proven" if most else "saves nothing, proven"
        elif least > 0:
            verdict = f"saves between {ns(least)} and {ns(most)}"
        elif most > 0:
            verdict = f"saves between {ns(least)} and {ns(most)}: it may save nothing"
        else:
            verdict = f"saves between {ns(least)} and {ns(most)}: it saves nothing"
        span = (
            ns(self.bound_ns) if self.bound_ns == self.latency_ns else f"{ns(self.bound_ns)} to {ns(self.latency_ns)}"
        )
        return f"With {self.question.words} the latency is {span} ({self.bound_by}): it {verdict}."


def changed_machine(machine: Machine, question: Question) -> Machine:
    """The machine with a change; its figure says so as its source."""
    data = machine.model_dump(mode="json")
    question.change(data)
    data["name"] = f"{machine.name[:150]} with {question.words}"
    return Machine.model_validate(data)


def keep_plan(instance: Instance, schedule: Schedule, questions: Sequence[Question] = QUESTIONS) -> list[Kept]:
    """Every question answered with the plan kept, the most valuable first; those that the plan does not survive not."""
    found = []
    own_ns = max(Network(View(instance, schedule)).earliest().values())
    for question in questions:
        machine = changed_machine(instance.machine, question)
        # only graph and machine are looked at: the candidates' prices need not be worked out again
        fields = {name: getattr(instance, name) for name in Instance.model_fields} | {"machine": machine}
        changed = in_step(Instance.model_construct(**fields), instance, schedule)
        try:
            timed = Network(View(changed, schedule)).retimed()
        except InputError:  # a kernel has no price there: it must hold as many cores as there are
            continue
        # what takes as long as before is the plan as it was; the proof is still that of the machine as it is
        judged = () if timed.latency_ns == own_ns else replay(changed, timed.sealed()).violations
        if all(violation.rule in ("bound", "status") for violation in judged):
            found.append(Kept(question, timed.latency_ns, own_ns - timed.latency_ns))
    return sorted(found, key=lambda kept: -kept.saves_ns)


def ask(
    instance: Instance,
    schedule: Schedule,
    time_limit: float = 60.0,
    *,
    questions: Sequence[Question] = QUESTIONS,
    workers: int = 0,
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
    on_answer: Callable[[Answer], None] | None = None,
    started: float | None = None,
) -> list[Answer]:
    """Plan anew on each changed machine.

    Parameters
    ----------
    time_limit
        Seconds for all questions together; what one leaves over goes to the next, and those for which nothing is left
        have no answer. Where the schedule is not proven
        optimal, a part goes to the machine as it is, so that what is found there is not taken for a saving.
    should_stop
        Asked several times a second; where it says so, the answers so far are given.
    on_answer
        Called with each answer as it comes.

    Raises
    ------
    InputError
        Where the limit or another option makes no sense.
    """
    Options(time_limit_s=time_limit, workers=workers, seed=seed)  # says what is wrong with them
    begin = time.monotonic() if started is None else started
    base_latency, base_bound = schedule.latency_ns, schedule.proof.bound_ns
    left = len(questions) + (schedule.proof.status is not Status.OPTIMAL)

    def share_s() -> float:
        rest = time_limit - (time.monotonic() - begin)
        return max(rest / max(1, left), LEAST_S)

    if schedule.proof.status is not Status.OPTIMAL:
        result = api.solve(
            instance,
            share_s(),
            workers=workers,
            seed=seed,
            warm_start=plan_on(instance, schedule),
            should_stop=should_stop,
        )
        base_latency, base_bound = min(base_latency, result.objective_ns), max(base_bound, result.bound_ns)
        left -= 1
    found = []
    for question in questions:
        if (should_stop is not None and should_stop()) or time_limit - (time.monotonic() - begin) < LEAST_S:
            break
        asked = time.monotonic()
        share = share_s()
        machine = changed_machine(instance.machine, question)
        changed = build_instance(instance.graph, machine, instance.census.max_group, instance.origin)
        changed = changed if instance.price is Pricing.ESTIMATE else exact(changed)
        warm = plan_on(changed, schedule)
        rest = max(LEAST_S, share - (time.monotonic() - asked))
        result = api.solve(changed, rest, workers=workers, seed=seed, warm_start=warm, should_stop=should_stop)
        # the plan at hand may run there in a way that is no candidate any more: it is a schedule all the same
        kept = [one.latency_ns for one in keep_plan(instance, schedule, (question,)) if warm is None]
        answer = Answer(
            question,
            min(result.objective_ns, max(result.bound_ns, *kept)) if kept else result.objective_ns,
            result.bound_ns,
            result.bound_by,
            base_latency,
            base_bound,
            warm is not None,
        )
        found.append(answer)
        left -= 1
        if on_answer is not None:
            on_answer(answer)
    return found


def plan_on(instance: Instance, schedule: Schedule) -> Schedule | None:
    """The plan at hand, timed anew, as a schedule of another instance of its graph; ``None`` where it is none there.

    Where a tiling of the plan is among the candidates with another share of the L2 rate alone, it takes that share.
    """
    from formulations.facts import Facts
    from solvers.bounds import instant_bounds, prove

    ways = {c.operators: instance.implementations(c) for c in instance.candidates}
    kernels = []
    for kernel in schedule.kernels:
        own = kernel.tiling
        alike = [
            way
            for way in ways.get(kernel.operators, ())
            if way.tiling.model_copy(update={"l2_permille": own.l2_permille}) == own
        ]
        if not alike:
            return None
        nearest = min(alike, key=lambda way: abs(way.tiling.l2_permille - own.l2_permille))
        kernels.append(kernel.model_copy(update={"tiling": nearest.tiling, "buffers": nearest.cost.buffers}))
    try:
        timed = Network(View(instance, schedule.model_copy(update={"kernels": tuple(kernels)}))).retimed()
        facts = Facts(instance)
        bounds = {name: value for name, value in instant_bounds(facts).items() if value <= timed.latency_ns}
        warm = timed.model_copy(update={"proof": prove(facts, "plan kept", timed.latency_ns, bounds)}).sealed()
    except (TilewrightError, ValueError):  # it does not fit there
        return None
    return warm if replay(instance, warm).valid else None
