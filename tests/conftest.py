"""Instances and schedules that several test modules share: built once per run, by nothing random."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from formulations.facts import Facts
from formulations.plan import Decisions, KernelChoice, MoveChoice, ResidencyChoice, build_schedule, time_decisions
from instances.build import build_instance
from instances.catalogue import load_model
from instances.generate import build_graph
from instances.graph import Graph
from instances.instance import Instance
from instances.kernels import Implementation
from instances.machine import load_machine
from instances.schedule import MoveKind, Schedule, Source
from solvers.bounds import prove


def llama_graph(phase: str = "decode", layers: int = 1, dtype: str = "bfloat16") -> Graph:
    """Layers of llama-3-8b: decode of batch 16 at context 4096, or prefill of 1 x 2048 tokens."""
    model = load_model("llama-3-8b")
    if phase == "decode":
        return build_graph(model, "decode", 16, 1, 4096, layers=layers, dtype=dtype)  # type: ignore[arg-type]
    return build_graph(model, "prefill", 1, 2048, layers=layers, dtype=dtype)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def llama() -> Instance:
    """One decode layer of llama-3-8b, batch 16, context 4096, on ascend910b2."""
    return build_instance(llama_graph(), load_machine("ascend910b2"))


@pytest.fixture(scope="session")
def qwen() -> Instance:
    """One decode layer of qwen3-32b with embedding and head on one rank of eight: four collectives, and an
    embedding table of which only some rows are read."""
    graph = build_graph(load_model("qwen3-32b"), "decode", 16, 1, 4096, layers=1, tp=8, ends=True)
    return build_instance(graph, load_machine("ascend910b2"))


class Script:
    """Writes a schedule by hand, one activity after the other unless told otherwise."""

    def __init__(self, instance: Instance) -> None:
        self.facts = Facts(instance)
        self.instance = instance
        self.now = 0
        self.kernels: list[KernelChoice] = []
        self.moves: list[MoveChoice] = []
        self.stays: list[ResidencyChoice] = []
        self.candidates = {frozenset(c.operators): g for g, c in enumerate(instance.candidates)}

    def kernel(
        self,
        *operators: str,
        from_hbm: tuple[str, ...] = (),
        far: tuple[str, ...] = (),
        to_hbm: tuple[str, ...] = (),
        both: tuple[str, ...] = (),
        start: int | None = None,
        phase_after: int = 0,
        fits: Callable[[Implementation], bool] = lambda way: True,
    ) -> KernelChoice:
        """A kernel over the operators. Sources are streamed from HBM unless ``far`` (brought by a move); made tensors
        are read from L2 unless in ``from_hbm``, and left there unless in ``to_hbm`` (``both`` does both)."""
        g = self.candidates[frozenset(operators)]
        candidate = self.instance.candidates[g]
        ways = self.instance.implementations(candidate)
        index = min((i for i, way in enumerate(ways) if fits(way)), key=lambda i: ways[i].cost.least_ns)
        cost = ways[index].cost
        streamed = {t for t in candidate.reads if t in from_hbm or (t in self.facts.sources and t not in far)}
        begin = self.now if start is None else start
        writes = {t: (t not in to_hbm, t in to_hbm or t in both) for t in candidate.writes}
        phased = bool(streamed) or any(hbm for _, hbm in writes.values())
        choice = KernelChoice(
            candidate=g,
            implementation=index,
            start_ns=begin,
            hbm_start_ns=max(begin + cost.head_ns, phase_after) if phased else None,
            reads={t: Source.HBM if t in streamed else Source.L2 for t in candidate.reads},
            writes=writes,
            far=frozenset(far),
        )
        self.kernels.append(choice)
        self.stays += [ResidencyChoice(t, None, brought=False) for t, (kept, _) in writes.items() if kept]
        self.now = max(self.now, self.end(choice))
        return choice

    def end(self, choice: KernelChoice) -> int:
        """When a kernel ends."""
        return time_decisions(self.facts, Decisions((choice,))).end[0]

    def phase_end(self, choice: KernelChoice) -> int:
        """When a kernel's channel phase ends."""
        return (choice.hbm_start_ns or 0) + time_decisions(self.facts, Decisions((choice,))).phase[0]

    def move(self, kind: MoveKind, tensor: str, start: int | None = None) -> int:
        """An explicit move; without ``start`` everything after it waits. Returns its end."""
        begin = self.now if start is None else start
        self.moves.append(MoveChoice(tensor, kind, begin))
        if kind is not MoveKind.SPILL:
            self.stays.append(ResidencyChoice(tensor, None, brought=True))
        end = begin + self.facts.move_ns(tensor)
        self.now = max(self.now, end) if start is None else self.now
        return end

    def schedule(self) -> Schedule:
        """The schedule, sealed, with two bounds that are plainly true."""
        decisions = Decisions(tuple(self.kernels), tuple(self.moves), tuple(self.stays))
        latency = time_decisions(self.facts, decisions).latency_ns
        bounds = {"hbm_traffic": self.facts.compulsory_ns, "shortest_kernel": min(self.facts.least_ns)}
        return build_schedule(self.facts, decisions, prove(self.facts, "by hand", latency, bounds))


@pytest.fixture(scope="session")
def scripted(qwen: Instance) -> Schedule:
    """A schedule of ``qwen`` with one of everything: prefetches (one under a collective), an output that is spilled, a
    tensor that is spilled and read back from HBM, one that is spilled and filled again, mixed kernels with
    workspaces, two kernels at once on different cores, collectives."""
    s = Script(qwen)
    s.kernel("embed")
    s.move(MoveKind.PREFETCH, "l0.w_q", start=s.now)  # shorter than the collective
    s.kernel("embed_all_reduce")
    s.kernel("l0.input_norm")
    begin = s.now
    queries = s.kernel("l0.q_proj", "l0.q_norm", "l0.rope_q", far=("l0.w_q",), fits=lambda way: way.tiling.aic <= 4)
    keys = ("l0.k_proj", "l0.v_proj", "l0.k_norm", "l0.rope_k", "l0.cache_write_k", "l0.cache_write_v")
    s.kernel(*keys, both=("l0.cache_v_rows",), start=begin, phase_after=s.phase_end(queries))
    s.move(MoveKind.SPILL, "l0.cache_k_rows")
    s.kernel("l0.attn_scores", "l0.softmax", "l0.attn_values")
    s.kernel("l0.o_proj")
    s.kernel("l0.attn_all_reduce")
    s.move(MoveKind.SPILL, "l0.o_reduced")
    s.kernel("l0.attn_add", "l0.post_norm", from_hbm=("l0.o_reduced",))
    s.move(MoveKind.SPILL, "l0.h")
    s.kernel("l0.gate_proj")
    s.kernel("l0.up_proj", "l0.act", to_hbm=("l0.act",))
    s.kernel("l0.down_proj", from_hbm=("l0.act",))
    s.move(MoveKind.FILL, "l0.h", start=s.now)
    s.kernel("l0.mlp_all_reduce")
    s.kernel("l0.mlp_add", "final_norm", far=("l0.h",))
    s.kernel("lm_head")
    s.kernel("lm_head_all_gather", to_hbm=("gathered_logits",))
    return s.schedule()
