"""Exact prices of an instance's kernels, and what they change in its plan.

The schedules of loops are kept while the program runs, and in the cache folder (``instances.folders``) from run to run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from instances.folders import cache_folder
from instances.fusion import Fuser
from instances.instance import Instance, Pricing
from instances.schedule import Schedule
from opt.version import __version__

if TYPE_CHECKING:
    from solvers.pipelining.cache import PipelineCache
    from solvers.pipelining.exact import Repriced


@lru_cache(maxsize=8)
def _cache_in(folder: Path | None) -> PipelineCache:
    from solvers.pipelining.cache import PipelineCache

    return PipelineCache(folder, __version__)


def pipeline_cache() -> PipelineCache:
    """The schedules of loops that are known: one cache for each folder, in memory where there is none."""
    return _cache_in(cache_folder())


def repriced(instance: Instance, tell: Callable[[int, int], None] = lambda done, all_: None) -> Repriced:
    """An instance with exact prices, and what each way to run a kernel is priced by.

    ``tell`` hears how many kernels of how many are done.
    """
    from solvers.pipelining.exact import reprice

    return reprice(instance, pipeline_cache(), tell=tell)


def exact(instance: Instance) -> Instance:
    """The same question with kernels priced by modulo schedules of their loops.

    Kernels that have no loop, or one that no schedule was found for, keep their estimates. The schedules are part of
    the instance, and with them its fingerprint changes; :func:`opt.replay` checks them.

    Parameters
    ----------
    instance
        With estimated prices, as :func:`opt.generate` and the doors for graphs make it; one with exact prices stays.

    Returns
    -------
    Instance
        With ``price`` exact; the same candidates and tilings.
    """
    return instance if instance.price is Pricing.EXACT else repriced(instance).instance


def in_step(changed: Instance, like: Instance, schedule: Schedule) -> Instance:
    """``changed`` with the kernels of a schedule priced as ``like`` prices: exactly, if that does."""
    if like.price is Pricing.ESTIMATE:
        return changed
    from solvers.pipelining.exact import certify

    fuser = Fuser(changed.graph)
    fusions = [(fuser.judge(kernel.operators), kernel.tiling) for kernel in schedule.kernels]
    return certify(changed, [(fusion, tiling) for fusion, tiling in fusions if fusion is not None], pipeline_cache())
