"""Who gets how much of L2 and HBM: flows that draw at the same moment share what there is, max-min fairly."""

from __future__ import annotations

from dataclasses import dataclass

TINY = 1e-9


@dataclass
class Flow:
    """Traffic of ``cores`` like cores, each moving ``left`` bytes at up to ``rate`` bytes per ns.

    ``hbm_share`` of it crosses the channel to HBM, ``l2_share`` the ports of L2. A move counts as one core: the copy
    engine has no more requests in flight than a core has.
    """

    left: float
    rate: float
    cores: int
    hbm_share: float
    l2_share: float = 1.0
    now: float = 0.0
    held_by: str = ""


def share_out(flows: list[Flow], l2_rate: float, hbm_rate: float) -> None:
    """Set ``now`` (bytes per ns and core) of each flow: all grow alike until a port, L2 or HBM is full."""
    growing = list(flows)
    l2_free, hbm_free, level = l2_rate, hbm_rate, 0.0
    for flow in flows:
        flow.now, flow.held_by = 0.0, ""
    while growing:
        l2_use = sum(f.cores * f.l2_share for f in growing)
        hbm_use = sum(f.cores * f.hbm_share for f in growing)
        steps = [(f.rate - level, "") for f in growing]
        step, cause = min(steps)
        if l2_use > TINY and l2_free / l2_use < step:
            step, cause = l2_free / l2_use, "l2"
        if hbm_use > TINY and hbm_free / hbm_use < step:
            step, cause = hbm_free / hbm_use, "hbm"
        step = max(0.0, step)
        level += step
        l2_free -= step * l2_use
        hbm_free -= step * hbm_use
        still = []
        for flow in growing:
            flow.now = level
            full = flow.rate - flow.now <= TINY * flow.rate
            stuck = (cause == "l2" and flow.l2_share > 0) or (cause == "hbm" and flow.hbm_share > 0)
            if full or stuck:
                flow.held_by = "" if full else cause
            else:
                still.append(flow)
        if len(still) == len(growing):
            return
        growing = still
