"""Exact prices: modulo schedules of the loops of an instance's kernels in place of the estimate by their bottleneck."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from instances.costs import draft
from instances.errors import InputError
from instances.fusion import Fuser, Fusion
from instances.instance import Instance, Pricing
from instances.kernels import Cost, Rule, Template, Tiling
from instances.pipelines.derive import derive
from instances.pipelines.loop import KernelLoop, PipelineSchedule
from instances.pricing import price_in
from solvers.pipelining.cache import LOOP_SECONDS, PipelineCache


@dataclass(frozen=True)
class Piped:
    """A way to run a kernel with its loop and the schedule of that.

    ``loop`` is ``None`` where it has no loop, ``schedule`` where none was found: it keeps its estimate.
    """

    operators: tuple[str, ...]
    rule: Rule
    tiling: Tiling
    estimate: Cost
    exact: Cost
    loop: KernelLoop | None
    schedule: PipelineSchedule | None

    @property
    def ratio(self) -> float:
        """Exact over estimated time of the kernel with everything in L2."""
        return self.exact.least_ns / max(1, self.estimate.least_ns)


@dataclass(frozen=True)
class Repriced:
    """An instance with exact prices, and each way to run each kernel, in the order of its templates."""

    instance: Instance
    ways: tuple[tuple[Piped, ...], ...]

    @property
    def scheduled(self) -> list[Piped]:
        """Ways that are priced by a schedule."""
        return [way for ways in self.ways for way in ways if way.schedule is not None]

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
        With estimated prices.
    cache
        Of schedules by loop.
    seconds
        Of search for each loop whose schedule does not meet its bound at once.
    tell
        Hears how many templates of how many are done.

    Raises
    ------
    InputError
        Where its prices are exact already.
    """
    if instance.price is Pricing.EXACT:
        raise InputError(f"{instance.name}: its prices are exact already; give the instance that it was made of")
    fuser = Fuser(instance.graph)
    groups: dict[int, Fusion] = {}
    for candidate in instance.candidates:
        if candidate.template not in groups and (fusion := fuser.judge(candidate.operators)) is not None:
            groups[candidate.template] = fusion
    found: list[list[tuple[Tiling, KernelLoop | None, PipelineSchedule | None]]] = []
    for number, template in enumerate(instance.templates):
        mine = []
        for way in template.implementations if number in groups else ():
            loop = _loop(groups[number], instance, way.tiling)
            mine.append((way.tiling, loop, None if loop is None else cache.schedule(loop.body, seconds)))
        found.append(mine)
        tell(number + 1, len(instance.templates))
    exact = certified(instance, [(loop, schedule) for mine in found for _, loop, schedule in mine])
    ways: list[tuple[Piped, ...]] = []
    templates: list[Template] = []
    for number, template in enumerate(instance.templates):
        piped = tuple(_piped(exact, groups[number], template, way) for way in enumerate(found[number]))
        ways.append(piped)
        kept = tuple(
            old.model_copy(update={"cost": new.exact}) for old, new in zip(template.implementations, piped, strict=True)
        )
        templates.append(template.model_copy(update={"implementations": kept}) if piped else template)
    fields = {name: getattr(exact, name) for name in Instance.model_fields} | {"templates": tuple(templates)}
    return Repriced(Instance(**fields), tuple(ways))


def certify(instance: Instance, kernels: Iterable[tuple[Fusion, Tiling]], cache: PipelineCache) -> Instance:
    """An instance that prices these kernels exactly; its templates' own prices are left as they are."""
    loops = [loop for fusion, tiling in kernels if (loop := _loop(fusion, instance, tiling)) is not None]
    return certified(instance, [(loop, cache.schedule(loop.body)) for loop in loops])


def certified(
    instance: Instance, found: Iterable[tuple[KernelLoop | None, PipelineSchedule | None]]
) -> Instance:
    """The instance with these schedules as what its kernels are priced by."""
    pipelines: dict[str, PipelineSchedule] = {}
    unscheduled: dict[str, None] = {}
    for loop, schedule in found:
        if loop is None:
            continue
        if schedule is None:
            unscheduled[loop.body.fingerprint] = None
        else:
            pipelines[schedule.loop] = schedule
    update = {
        "price": Pricing.EXACT,
        "pipelines": tuple(pipelines[key] for key in sorted(pipelines)),
        "unscheduled": tuple(sorted(unscheduled)),
    }
    fields = {name: getattr(instance, name) for name in Instance.model_fields} | update
    return Instance.model_construct(**fields)  # checked when it was built; cached properties start anew


def _loop(fusion: Fusion, instance: Instance, tiling: Tiling) -> KernelLoop | None:
    return derive(fusion, instance.machine, tiling, draft(fusion, instance.machine, tiling))


def _piped(
    exact: Instance,
    fusion: Fusion,
    template: Template,
    way: tuple[int, tuple[Tiling, KernelLoop | None, PipelineSchedule | None]],
) -> Piped:
    number, (tiling, loop, schedule) = way
    return Piped(
        operators=fusion.names,
        rule=template.rule,
        tiling=tiling,
        estimate=template.implementations[number].cost,
        exact=price_in(exact, fusion, tiling),
        loop=loop,
        schedule=schedule,
    )

