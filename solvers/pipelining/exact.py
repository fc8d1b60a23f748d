"""Exact prices: modulo schedules of the loops of an instance's kernels in place of the estimate by their bottleneck."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from instances.costs import price
from instances.errors import InputError
from instances.fusion import Fuser, Fusion
from instances.instance import Instance, Pricing
from instances.kernels import Cost, Rule, Template, Tiling
from instances.pipelines.derive import derive
from instances.pipelines.loop import KernelLoop, PipelineSchedule
from instances.pricing import loop_in, price_in
from solvers.pipelining.cache import LOOP_SECONDS, PipelineCache


@dataclass(frozen=True)
class Piped:
    """A way to run a kernel with its loop and the schedule of that.

    ``loop`` is ``None`` where it has no loop or no schedule of it was found: it keeps its estimate.
    """

    operators: tuple[str, ...]
    rule: Rule
    tiling: Tiling
    estimate: Cost
    exact: Cost
    loop: KernelLoop | None
    schedule: PipelineSchedule | None

    @property
    def label(self) -> str:
        """Its operators, as schedules call the kernel."""
        return "+".join(self.operators)

    @property
    def ratio(self) -> float:
        """Exact over estimated time of the kernel with everything in L2."""
        return self.exact.least_ns / max(1, self.estimate.least_ns)


@dataclass(frozen=True)
class Repriced:
    """An instance with exact prices, and the ways to run each kernel, in the order of its templates."""

    instance: Instance
    ways: tuple[tuple[Piped, ...], ...]

    @property
    def scheduled(self) -> list[Piped]:
        """Ways that are priced by a schedule."""
        return [way for ways in self.ways for way in ways if way.loop is not None]

    @property
    def fastest(self) -> list[Piped]:
        """Of each kernel the way that takes least time by its estimate."""
        return [min(ways, key=lambda way: way.estimate.least_ns) for ways in self.ways if ways]


def reprice(
    instance: Instance,
    cache: PipelineCache,
    seconds: float = LOOP_SECONDS,
    tell: Callable[[int, int], None] = lambda done, all_: None,
) -> Repriced:
    """The same question with exact prices; the ways to run each kernel stay the same.

    Parameters
    ----------
    instance
        With estimated prices, or with exact ones, which are looked up.
    cache
        Of schedules by loop.
    seconds
        Of search for each loop whose schedule does not meet its bound at once.
    tell
        Hears how many templates of how many are done.
    """
    groups = _groups(instance)
    if instance.price is Pricing.ESTIMATE:
        found = []
        for number, template in enumerate(instance.templates):
            for way in template.implementations:
                loop = _loop(groups[number], instance, way.tiling)
                if loop is not None:
                    found.append((loop, cache.schedule(loop.body, seconds)))
            tell(number + 1, len(instance.templates))
        exact = _certified(instance, found)
    else:
        exact = instance
    ways = tuple(
        tuple(_piped(exact, groups[number], template.rule, way.tiling) for way in template.implementations)
        for number, template in enumerate(instance.templates)
    )
    return Repriced(_with_costs(exact, [[way.exact for way in mine] for mine in ways]), ways)


def estimated(instance: Instance) -> Instance:
    """The same question priced by estimates."""
    if instance.price is Pricing.ESTIMATE:
        return instance
    groups = _groups(instance)
    fields = {name: getattr(instance, name) for name in Instance.model_fields}
    plain = Instance.model_construct(**fields | {"price": Pricing.ESTIMATE, "pipelines": (), "unscheduled": ()})
    costs = [
        [price_in(plain, groups[number], way.tiling) for way in template.implementations]
        for number, template in enumerate(instance.templates)
    ]
    return _with_costs(plain, costs)


def certify(instance: Instance, kernels: Iterable[tuple[Fusion, Tiling]], cache: PipelineCache) -> Instance:
    """An instance that prices these kernels exactly; its templates' own prices are left as they are."""
    loops = [loop for fusion, tiling in kernels if (loop := _loop(fusion, instance, tiling)) is not None]
    return _certified(instance, [(loop, cache.schedule(loop.body)) for loop in loops])


def _groups(instance: Instance) -> dict[int, Fusion]:
    """Template -> the first of its groups; :class:`InputError` where one may not run as one kernel."""
    fuser = Fuser(instance.graph)
    groups: dict[int, Fusion] = {}
    for candidate in instance.candidates:
        if candidate.template in groups:
            continue
        fusion = fuser.judge(candidate.operators)
        if fusion is None:
            raise InputError(f"{instance.name}: {'+'.join(candidate.operators)} may not run as one kernel; rebuild it")
        groups[candidate.template] = fusion
    unused = next((number for number in range(len(instance.templates)) if number not in groups), None)
    if unused is not None:
        raise InputError(f"{instance.name}: template {unused} is of no candidate; rebuild the instance")
    return groups


def _certified(instance: Instance, found: Iterable[tuple[KernelLoop, PipelineSchedule | None]]) -> Instance:
    """The instance with these schedules as what its kernels are priced by, its templates as they were."""
    pipelines: dict[str, PipelineSchedule] = {}
    unscheduled: set[str] = set()
    for loop, schedule in found:
        if schedule is None:
            unscheduled.add(loop.body.fingerprint)
        else:
            pipelines[schedule.loop] = schedule
    update = {
        "price": Pricing.EXACT,
        "pipelines": tuple(pipelines[key] for key in sorted(pipelines)),
        "unscheduled": tuple(sorted(unscheduled)),
    }
    fields = {name: getattr(instance, name) for name in Instance.model_fields} | update
    return Instance.model_construct(**fields)  # checked when it was built; cached properties start anew


def _with_costs(instance: Instance, costs: list[list[Cost]]) -> Instance:
    """The instance with these costs of its implementations, template by template."""
    templates: list[Template] = []
    for template, mine in zip(instance.templates, costs, strict=True):
        kept = tuple(
            way.model_copy(update={"cost": cost}) for way, cost in zip(template.implementations, mine, strict=True)
        )
        templates.append(template.model_copy(update={"implementations": kept}))
    fields = {name: getattr(instance, name) for name in Instance.model_fields}
    return Instance(**fields | {"templates": tuple(templates)})


def _loop(fusion: Fusion, instance: Instance, tiling: Tiling) -> KernelLoop | None:
    return derive(fusion, instance.machine, tiling)


def _piped(exact: Instance, fusion: Fusion, rule: Rule, tiling: Tiling) -> Piped:
    loop, schedule = loop_in(exact, fusion, tiling) or (None, None)
    return Piped(
        operators=fusion.names,
        rule=rule,
        tiling=tiling,
        estimate=price(fusion, exact.machine, tiling),
        exact=price_in(exact, fusion, tiling),
        loop=loop,
        schedule=schedule,
    )
