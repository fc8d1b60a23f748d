"""Co-design: how fast would a layer be on a chip that does not exist, with another UB and another HBM?

Takes an Ascend 910B2, changes the size of the vector cores' buffer and the rate of the HBM, plans one prefill layer of
Llama-3-8B on each such chip, and plots the latency with its proven bound: between the two lies all that is unknown.

    pip install tilewright[plot]
    python examples/codesign.py -o codesign.png
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import opt
from instances.machine import Machine, MemoryName, load_machine

KIB = 1024


@dataclass(frozen=True)
class Point:
    """One hypothetical chip and what a layer takes on it (us)."""

    ub_kib: int
    hbm_gb_s: int
    latency_us: float
    bound_us: float


def hypothetical(base: Machine, ub_kib: int, hbm_gb_s: int) -> Machine:
    """A chip like ``base`` with another UB and another HBM."""
    ub = base.memories[MemoryName.UB]
    capacity = ub.capacity_bytes.model_copy(update={"value": ub_kib * KIB, "source": "hypothetical"})
    memories = {**base.memories, MemoryName.UB: ub.model_copy(update={"capacity_bytes": capacity})}
    rate = base.hbm.rate_gb_s.model_copy(update={"value": float(hbm_gb_s), "source": "hypothetical"})
    hbm = base.hbm.model_copy(update={"rate_gb_s": rate})
    name = f"{base.name}-ub{ub_kib}-hbm{hbm_gb_s}"
    return base.model_copy(update={"name": name, "memories": memories, "hbm": hbm})


def explore(ub_sizes: list[int], hbm_rates: list[int], seconds: float) -> list[Point]:
    """Plan the layer on every combination."""
    base = load_machine("ascend910b2")
    found = []
    for ub_kib in ub_sizes:
        for hbm_gb_s in hbm_rates:
            chip = hypothetical(base, ub_kib, hbm_gb_s)
            layer = opt.generate("llama-3-8b", phase="prefill", tokens=512, layers=1, machine=chip)
            result = opt.solve(layer, time_limit=seconds, gap=0.01)
            point = Point(ub_kib, hbm_gb_s, result.objective_ns / 1000, result.bound_ns / 1000)
            found.append(point)
            print(
                f"UB {ub_kib:>4} KiB, HBM {hbm_gb_s:>5} GB/s: {point.latency_us:9.1f} us, "
                f"bound {point.bound_us:9.1f} us, gap {100 * result.gap:4.1f} %"
            )
    return found


def draw(points: list[Point], path: Path) -> None:
    """Latency over HBM rate, a line per UB size; the band below each reaches down to the bound."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    sizes = sorted({point.ub_kib for point in points})
    for place, size in enumerate(sizes):
        mine = sorted((point for point in points if point.ub_kib == size), key=lambda point: point.hbm_gb_s)
        rates = [point.hbm_gb_s for point in mine]
        colour = plt.get_cmap("viridis")(place / max(1, len(sizes) - 1) * 0.85)
        axes.plot(rates, [point.latency_us for point in mine], marker="o", color=colour, label=f"UB {size} KiB")
        axes.fill_between(
            rates, [p.bound_us for p in mine], [p.latency_us for p in mine], color=colour, alpha=0.2, linewidth=0
        )
    axes.set_xlabel("HBM rate, GB/s")
    axes.set_ylabel("latency of the layer, us")
    axes.set_title("Llama-3-8B, one layer, prefill of 512 tokens, chips like Ascend 910B2", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Read the command line, explore, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("codesign.png"), help="picture to write")
    parser.add_argument("--ub", type=int, nargs="+", default=[32, 64, 192], metavar="KIB", help="sizes of UB")
    parser.add_argument("--hbm", type=int, nargs="+", default=[200, 400, 600, 800, 1600], metavar="GB/S", help="rates")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds per chip")
    given = parser.parse_args()
    draw(explore(given.ub, given.hbm, given.seconds), given.output)
    print(f"written to {given.output}")


if __name__ == "__main__":
    main()
