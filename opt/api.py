"""The functions behind ``import opt``. Solvers, and with them OR-Tools, are imported on first use."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from instances.build import MAX_GROUP, build_instance
from instances.catalogue import ModelConfig, load_model, model_names
from instances.documents import first_problem, read_document, write_document
from instances.errors import InputError, InvalidScheduleError, NoScheduleError, TilewrightError
from instances.estimate import Estimate, estimate
from instances.generate import Phase, Precision, build_graph
from instances.instance import Instance
from instances.library import DTYPES, KERNELS, Request, Unmodelled, parse_attributes
from instances.machine import Machine, load_machine, machine_names
from instances.plan import Plan
from instances.published import read_instance
from instances.schedule import Proof, Schedule, Status
from opt.history import search_points
from opt.pictures import picture_of
from opt.replay import Replay, replay
from solvers.interface import Listener, Options, Result
from solvers.registry import DEFAULT_SOLVER, REGISTRY, Entry, find_solver

if TYPE_CHECKING:
    from solvers.ablation import Ablation

DEFAULT_MACHINE = "ascend910b2"
"""The chip of an instance where none is named."""

MOST_OPERATORS_IN_A_GROUP = 64
"""Largest ``max_group``; no fusion rule comes near it."""

_log = logging.getLogger(__name__)


def generate(
    model: str | Path | ModelConfig,
    *,
    phase: Phase,
    batch: int = 1,
    tokens: int | None = None,
    context: int | None = None,
    layers: int | None = None,
    tp: int = 1,
    dtype: Precision = "bfloat16",
    ends: bool | None = None,
    absorbed: bool | None = None,
    source: int | None = None,
    max_group: int = MAX_GROUP,
    machine: str | Path | Machine = DEFAULT_MACHINE,
) -> Instance:
    """An instance: a model's operators on one rank, with all legal kernels priced on a machine.

    Parameters
    ----------
    model
        Name in the catalogue (:func:`models`), path of a Hugging Face ``config.json``, or a configuration.
    phase
        ``"prefill"`` or ``"decode"``. Of an encoder-decoder, prefill is the encoder and the decoder's first tokens,
        decode one step of the decoder, which reads what it needs of the encoder from a cache.
    batch
        Sequences.
    tokens
        New tokens per sequence. ``None``: 1 in decode, all positions of an encoder. Of an encoder-decoder, the
        decoder's; ``None``: 1.
    context
        Positions attended to per sequence, the new ones included; decode wants it.
    layers
        How many blocks, from the first; ``None``: all. Of an encoder-decoder, of each stack.
    tp
        Ranks of tensor parallelism.
    dtype
        ``"bfloat16"``, ``"float16"`` or ``"w8a8"``.
    ends
        Whether embedding, final norm and head are there; ``None``: when all blocks are.
    absorbed
        Latent attention over the latents themselves, or over keys and values expanded from them; ``None``: absorbed
        in decode, expanded in prefill.
    source
        Positions of the encoder of an encoder-decoder; ``None``: the model's own, where it has a fixed number.
    max_group
        Largest number of operators in a kernel.
    machine
        Name of a chip (:func:`machines`), path of a machine file, or a machine.

    Raises
    ------
    InputError
        Where the request contradicts itself, the model or the catalogue.
    InfeasibleError
        Where the tensors exceed HBM or an operator fits nowhere.
    """
    config = model if isinstance(model, ModelConfig) else load_model(model)
    chip = machine if isinstance(machine, Machine) else load_machine(str(machine))
    if not 1 <= max_group <= MOST_OPERATORS_IN_A_GROUP:
        raise InputError(
            f"max_group {max_group} is not in 1 to {MOST_OPERATORS_IN_A_GROUP}; give the most operators in a kernel"
        )
    new = _new_tokens(config, phase) if tokens is None else tokens
    try:
        graph = build_graph(
            config, phase, batch, new, context, layers, tp, dtype, ends, absorbed=absorbed, source=source
        )
    except ValidationError as error:
        raise InputError(
            f"{config.name}: {first_problem(error)}: a size is out of range; lower batch, tokens or context"
        ) from None
    origin: dict[str, str | int | float | bool | None] = {
        "model": config.name,
        "phase": phase,
        "batch": batch,
        "tokens": new,
        "context": context,
        "layers": config.depth if layers is None else layers,
        "tp": tp,
        "dtype": dtype,
        "ends": ends,
        "max_group": max_group,
        "machine": chip.name,
    }
    # where they say nothing they are not written, so that an instance reads as before they could be asked for
    chosen: dict[str, str | int | float | bool | None] = {"absorbed": absorbed, "source": source}
    origin |= {key: value for key, value in chosen.items() if value is not None}
    return build_instance(graph, chip, max_group, origin)


def cost(
    op: str,
    shapes: Iterable[Iterable[int]],
    *,
    dtype: str = "bfloat16",
    machine: str | Path | Machine = DEFAULT_MACHINE,
    attributes: str | dict[str, str] = "",
    network: bool = False,
) -> Estimate:
    """What one kernel costs on a machine, under the best tiling that the cost model finds.

    Parameters
    ----------
    op
        Name of the kernel (``instances.library.KERNELS``).
    shapes
        Shapes of the operands, in the order of the kernel's interface.
    dtype
        Element type of the first operand.
    attributes
        As text (``"{is_causal: True}"``) or by lower-case name.
    network
        Whether it runs inside a network, where activations and the program are warm, or alone with cold caches.

    Raises
    ------
    InputError
        Where the kernel cannot be modelled; the sentence says why.
    """
    chip = machine if isinstance(machine, Machine) else load_machine(str(machine))
    known = DTYPES.get(dtype.lower())
    if known is None:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    named = parse_attributes(attributes) if isinstance(attributes, str) else attributes
    request = Request(op, known, tuple(tuple(shape) for shape in shapes), named, network)
    try:
        return estimate(request, chip)
    except Unmodelled as reason:
        known_ops = "" if op in KERNELS else f"; choose one of {', '.join(KERNELS)}"
        raise InputError(f"{op} cannot be modelled: {reason}{known_ops}") from None


def _new_tokens(config: ModelConfig, phase: str) -> int:
    """Tokens per sequence where the caller names none."""
    if phase != "prefill":  # decode, or a word that is refused where the graph is built
        return 1
    if config.family == "encoder_decoder":
        return 1  # the token that the decoder starts from
    if not config.causal and config.positions is not None:
        return config.positions
    raise InputError(f"prefill of {config.name} without tokens; give the new tokens per sequence")


def solve(
    instance: Instance,
    time_limit: float = 60.0,
    solver: str = DEFAULT_SOLVER,
    workers: int = 0,
    seed: int = 0,
    gap: float = 0.0,
    warm_start: Schedule | None = None,
    on_event: Listener | None = None,
    *,
    first_feasible: bool = False,
    patience: float | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_schedule: Callable[[Schedule], None] | None = None,
    memory_limit_mib: int | None = None,
    deterministic_limit: float | None = None,
    leave_out: Iterable[str] = (),
    log: Callable[[str], None] | None = None,
    started: float | None = None,
) -> Result:
    """The best schedule found in time, with a proven bound; it has passed the replay.

    Parameters
    ----------
    instance
        The question.
    time_limit
        Seconds to the answer, model building included.
    solver
        One of :func:`solvers`.
    workers
        Threads of the search; 0 takes the CPUs that the process may use.
    seed
        Seed of the search.
    gap
        Stop when the relative gap is at most this.
    warm_start
        A valid schedule of the same instance; the answer is never worse.
    on_event
        Called with each improvement of objective or bound, from any thread; the search stops where it returns true.
    first_feasible
        Stop at the first schedule.
    patience
        Stop when no better schedule was found for so many seconds.
    should_stop
        Asked several times a second, from any thread; the search stops where it says so. All stop rules compose.
    on_schedule
        Called with each better schedule, complete and sealed, from any thread.
    memory_limit_mib
        Stop when the process holds more memory (MiB), with the best schedule so far.
    deterministic_limit
        Bound of the search in CP-SAT's deterministic time; with one worker and a seed the answer is the same on
        every run.
    leave_out
        Redundant constraint families of the joint model to leave out.
    log
        Called with each line of the solver's own log.
    started
        ``time.monotonic()`` from which the time limit counts; ``None``: now.

    Returns
    -------
    Result
        ``.schedule``, ``.objective_ns``, ``.bound_ns``, ``.bound_by``, ``.gap``, ``.status`` and more.

    Raises
    ------
    InputError
        On an unknown solver, a limit that makes no sense, or a warm start from outside the candidates.
    NoScheduleError
        If there is no schedule within the limits.
    InvalidScheduleError
        If the warm start, or the solver's answer and that of its fallback, fail the replay.

    Notes
    -----
    Where a solver that searches gives up, or its answer fails the replay, the greedy schedule takes its place beside
    the bounds proven until then, and a warning is logged: a compiler that embeds this is not left without a schedule.
    """
    options = Options(
        time_limit_s=time_limit,
        workers=workers,
        seed=seed,
        gap=gap,
        first_feasible=first_feasible,
        patience_s=patience,
        should_stop=should_stop,
        on_schedule=on_schedule,
        memory_limit_mib=memory_limit_mib,
        warm_start=warm_start,
        deterministic_limit=deterministic_limit,
        leave_out=frozenset(leave_out),
        started=time.monotonic() if started is None else started,
        on_event=on_event,
        log=log,
    )
    return solve_and_replay(instance, solver, options)[0]


def solve_and_replay(instance: Instance, solver: str, options: Options) -> tuple[Result, Replay]:
    """:func:`solve`, with the replay that the answer has passed."""
    entry = find_solver(solver)
    _check_left_out(options.leave_out)
    if options.warm_start is not None:
        _check_warm_start(instance, options.warm_start)
    entry.load()  # outside of what follows: a broken installation is no reason to fall back
    try:
        return _replayed(instance, entry, _answer(instance, entry, options), options)
    except _UnsoundError as error:
        if entry.fallback is None:
            raise InvalidScheduleError(str(error)) from None
        _log.warning("%s; falling back to the %s schedule", error, entry.fallback)
        fallback = find_solver(entry.fallback)
        return _replayed(instance, fallback, _fall_back(instance, fallback, options, error.result), options)
    except Exception as error:
        ours = isinstance(error, TilewrightError) and not isinstance(error, NoScheduleError)
        if entry.fallback is None or ours:
            raise
        reason = f"{type(error).__name__}: {error}"
        _log.warning("solver %r gave up (%s); falling back to the %s schedule", entry.name, reason, entry.fallback)
        _log.debug("where it gave up", exc_info=True)
        fallback = find_solver(entry.fallback)
        return _replayed(instance, fallback, _fall_back(instance, fallback, options, None), options)


class _UnsoundError(InvalidScheduleError):
    """An answer that fails its replay."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


def _answer(instance: Instance, entry: Entry, options: Options) -> Result:
    """What the solver says, or the warm start beside the solver's bound where that is the faster one."""
    result = entry.load()(instance, options)
    warm = options.warm_start
    if warm is None or warm.latency_ns >= result.objective_ns:
        return result
    return replace(result, schedule=_with_bounds(warm, result.schedule.proof, result.bounds_ns))


def _replayed(instance: Instance, entry: Entry, result: Result, options: Options) -> tuple[Result, Replay]:
    """The result with its replay; :class:`_UnsoundError` where the two disagree, be it on the latency alone."""
    try:
        judged = replay(instance, result.schedule).require_valid(f"the schedule of solver {entry.name!r}")
    except InvalidScheduleError as error:
        raise _UnsoundError(str(error), result) from None
    result = replace(result, runtime_s=options.elapsed_s)
    told = result.schedule.model_copy(update={"search": search_points(result)})  # no part of what its seal covers
    return replace(result, schedule=told, picture=picture_of(instance, told)), judged


def _fall_back(instance: Instance, entry: Entry, options: Options, failed: Result | None) -> Result:
    """The fallback's schedule, or the warm start where that is faster, beside the bounds that were proven before."""
    result = _answer(instance, entry, options)
    if failed is None:
        return result
    bounds = {**failed.bounds_ns, **result.bounds_ns}
    for argument, value in failed.bounds_ns.items():
        bounds[argument] = max(value, bounds[argument])
    refuted = sorted(argument for argument, value in bounds.items() if value > result.objective_ns)
    if refuted:
        _log.warning("a schedule of %d ns refutes the bounds %s: dropped", result.objective_ns, ", ".join(refuted))
    bounds = {argument: value for argument, value in bounds.items() if argument not in refuted}
    schedule = _with_bounds(result.schedule, result.schedule.proof, bounds or result.bounds_ns)
    return replace(result, schedule=schedule, events=(*failed.events, *result.events))


def _with_bounds(schedule: Schedule, proof: Proof, bounds_ns: dict[str, int]) -> Schedule:
    """A schedule beside other bounds; solver and decision space as in ``proof``."""
    best = max(bounds_ns, key=lambda argument: bounds_ns[argument])
    status = Status.OPTIMAL if bounds_ns[best] == schedule.latency_ns else Status.FEASIBLE
    update = {"status": status, "bound_ns": bounds_ns[best], "bound_by": best, "bounds_ns": bounds_ns}
    return schedule.model_copy(update={"proof": proof.model_copy(update=update)}).sealed()


def _check_left_out(families: frozenset[str]) -> None:
    """Constraint families to leave out must be redundant ones: without any other the answer would be no schedule."""
    if not families:
        return
    from formulations.joint import REDUNDANT

    known = sorted(REDUNDANT)
    for family in sorted(families):
        if family not in known:
            raise InputError(f"constraint family {family!r} cannot be left out; choose from {', '.join(known)}")


def ablate(
    instance: Instance,
    families: Iterable[str] = (),
    *,
    time_limit: float = 60.0,
    workers: int = 0,
    seed: int = 0,
    gap: float = 0.0,
    on_run: Callable[[Ablation], None] | None = None,
) -> list[Ablation]:
    """The joint model on CP-SAT with all its constraint families, then without each of ``families`` (default: any).

    ``time_limit`` is each run's, in seconds; a run ends early where its own relative gap is at most ``gap``.
    """
    from formulations.joint import FAMILIES
    from solvers.ablation import ablate as run

    chosen = list(families) or list(FAMILIES)
    for family in chosen:
        if family not in FAMILIES:
            raise InputError(f"constraint family {family!r} is unknown; choose from {', '.join(FAMILIES)}")
    return run(instance, chosen, Options(time_limit_s=time_limit, workers=workers, seed=seed, gap=gap), on_run)


def _check_warm_start(instance: Instance, schedule: Schedule) -> None:
    """A warm start must be valid and within the candidates, which are what the bound speaks of."""
    replay(instance, schedule).require_valid("the warm start")
    tilings = {c.operators: [way.tiling for way in instance.implementations(c)] for c in instance.candidates}
    for kernel in schedule.kernels:
        if kernel.tiling not in tilings.get(kernel.operators, ()):
            raise InputError(
                f"the warm start runs {kernel.label} in a way that is not among the instance's candidates; "
                "take a schedule of this very instance"
            )


def load_instance(path: str | Path) -> Instance:
    """Read and check an instance; :class:`InputError` that names file, place and remedy where it is not one."""
    return read_instance(path)


def load_schedule(path: str | Path) -> Schedule:
    """Read a schedule; whether it is valid is for :func:`opt.replay` to say."""
    return read_document(Schedule, path)


def plan(instance: Instance, schedule: Schedule) -> Plan:
    """What a compiler consumes of a schedule: kernels, addresses, moves with their points of issue, streams, events.

    Raises
    ------
    InvalidScheduleError
        Where the schedule does not pass the replay on this instance: no plan is made of a broken one.
    """
    from opt.plans import build_plan

    replay(instance, schedule).require_valid()
    return build_plan(instance, schedule)


def load_plan(path: str | Path, instance: Instance | None = None) -> Plan:
    """Read and check a plan; with ``instance``, only one that was made for its graph and its machine.

    Raises
    ------
    InputError
        Where it is no plan, requires a feature that this release does not know, or was made for another graph or
        machine.
    """
    found = read_document(Plan, path)
    if instance is not None:
        for what, made, own in (("graph", found.graph, instance.graph), ("machine", found.machine, instance.machine)):
            if made.fingerprint != own.fingerprint:
                raise InputError(
                    f"{path}: was made for another {what} ({made.name}) than that of instance {instance.name}; "
                    "make the plan anew from this instance and a schedule of it"
                )
    return found


def save(document: Instance | Schedule | Plan, path: str | Path) -> None:
    """Write an instance, a schedule or a plan as JSON, whole or not at all."""
    write_document(document, path)


def models() -> tuple[str, ...]:
    """Names of the model catalogue."""
    return tuple(model_names())


def machines() -> tuple[str, ...]:
    """Names of the chips that come with the package."""
    return tuple(machine_names())


def solvers() -> tuple[str, ...]:
    """Names of the solvers, the default first."""
    return tuple(REGISTRY)


def report(
    instance: Instance,
    schedule: Schedule,
    path: str | Path | None = None,
    *,
    baselines: Mapping[str, int] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> str:
    """A schedule as one HTML page that needs nothing else; also written to ``path`` where there is one.

    ``baselines`` and ``reasons`` as in :func:`reports.html.render_report`; reasons are worked out unless given.

    Raises
    ------
    InputError
        Where the schedule names what the instance does not have, or the file cannot be written.
    """
    from instances.documents import write_text
    from reports.html import render_report
    from reports.reasons import for_report

    why = for_report(instance, schedule) if reasons is None else reasons
    page = render_report(instance, schedule, baselines=baselines, reasons=why)
    if path is not None:
        write_text(path, page)
    return page


def trace(instance: Instance, schedule: Schedule, path: str | Path | None = None) -> dict[str, Any]:
    """A schedule as a Chrome trace (Perfetto, MindStudio Insight); also written to ``path`` where there is one.

    Raises
    ------
    InputError
        Where the schedule names what the instance does not have, or the file cannot be written.
    """
    from reports.trace import chrome_trace, write_trace

    if path is not None:
        write_trace(instance, schedule, path)
    return chrome_trace(instance, schedule)
