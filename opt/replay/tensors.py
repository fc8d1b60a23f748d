"""Where every tensor is, at every instant: residencies, moves, reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from instances.fusion import Fuser
from instances.graph import Role
from instances.instance import Instance
from instances.machine import MemoryName
from instances.schedule import Kernel, Move, MoveKind, Residency, Schedule, Source
from opt.replay.timeline import Traffic

Note = Callable[[str, str, int | None, float, str], None]
"""Records a violation: rule, place, time (ns), amount, detail."""


@dataclass(frozen=True)
class Stay:
    """A residency with the instant from which the whole tensor is there (ns)."""

    residency: Residency
    arrival_ns: int

    def serves(self, start_ns: int, end_ns: int) -> bool:
        """Whether the tensor is there, whole, over an interval."""
        return self.arrival_ns <= start_ns and end_ns <= self.residency.end_ns


def check_tensors(instance: Instance, schedule: Schedule, workspaces: Mapping[tuple[str, ...], int], note: Note) -> int:
    """Check all that concerns tensors; returns the peak of bytes in L2."""
    checker = _Tensors(instance, schedule, note)
    checker.check_lists()
    checker.check_moves()
    checker.check_windows()
    checker.check_reads()
    checker.check_outputs()
    return checker.check_addresses(workspaces)


class _Tensors:
    def __init__(self, instance: Instance, schedule: Schedule, note: Note) -> None:
        self.graph = instance.graph
        self.machine = instance.machine
        self.schedule = schedule
        self.note = note
        self.traffic = Traffic(instance)
        self.fuser = Fuser(instance.graph)
        self.maker: dict[str, Kernel] = {}
        for kernel in schedule.kernels:
            for name in kernel.operators:
                for access in self.graph.operator[name].writes if name in self.graph.operator else ():
                    self.maker[access.tensor] = kernel
        self.stays: dict[str, list[Stay]] = {}
        for residency in schedule.residencies:
            arrival = self._arrival(residency)
            if arrival is None:
                note(
                    "residency",
                    residency.tensor,
                    residency.start_ns,
                    1,
                    "starts with no kernel that leaves the tensor in L2 and no move that brings it",
                )
            else:
                self.stays.setdefault(residency.tensor, []).append(Stay(residency, arrival))

    def _arrival(self, residency: Residency) -> int | None:
        """When a residency's tensor is whole: its producer's end, or the end of the move that brings it."""
        for move in self.schedule.moves:
            if (move.tensor, move.start_ns) == (residency.tensor, residency.start_ns) and (
                move.kind is not MoveKind.SPILL
            ):
                return move.end_ns
        maker = self.maker.get(residency.tensor)
        if maker is None or maker.start_ns != residency.start_ns:
            return None
        left = any(write.tensor == residency.tensor and write.l2 for write in maker.writes)
        return maker.end_ns if left else None

    def check_lists(self) -> None:
        """Each kernel lists exactly the tensors that cross its border, and each made tensor goes somewhere."""
        begun = {(residency.tensor, residency.start_ns) for residency in self.schedule.residencies}
        for kernel in self.schedule.kernels:
            if any(name not in self.graph.operator for name in kernel.operators):
                continue
            fusion = self.fuser.judge(kernel.operators)
            if fusion is None:
                continue
            reads = tuple(access.tensor for access in fusion.reads)
            writes = tuple(access.tensor for access in fusion.writes)
            if tuple(read.tensor for read in kernel.reads) != reads:
                self.note("reads", kernel.label, kernel.start_ns, 1, f"must list {reads}, in this order")
            if tuple(write.tensor for write in kernel.writes) != writes:
                self.note("writes", kernel.label, kernel.start_ns, 1, f"must list {writes}, in this order")
            for write in kernel.writes:
                if not write.l2 and not write.hbm:
                    self.note("writes", f"{kernel.label}: {write.tensor}", kernel.end_ns, 1, "goes nowhere")
                stays = (write.tensor, kernel.start_ns) in begun
                if write.l2 != stays:
                    self.note(
                        "residency",
                        write.tensor,
                        kernel.start_ns,
                        1,
                        f"{kernel.label} {'leaves it in L2' if write.l2 else 'does not leave it in L2'}, "
                        f"but {'no' if write.l2 else 'a'} residency starts with the kernel",
                    )

    def check_moves(self) -> None:
        """Moves: right kind and length, their tensor where they take it from, room where they bring it to."""
        for move in self.schedule.moves:
            place = f"{move.kind.value} of {move.tensor}"
            tensor = self.graph.tensor.get(move.tensor)
            if tensor is None:
                self.note("move", place, move.start_ns, 1, "tensor is not in the graph")
                continue
            length = self.traffic.move_ns(move.tensor)
            if move.end_ns - move.start_ns != length:
                wrong = move.end_ns - move.start_ns - length
                self.note("move", place, move.start_ns, wrong, f"takes {length} ns, not {wrong} ns more")
            if (move.kind is MoveKind.PREFETCH) != tensor.role.starts_in_hbm:
                self.note("move", place, move.start_ns, 1, f"is not a move for a tensor of role {tensor.role.value}")
            if move.kind is MoveKind.SPILL:
                if not self._in_l2(move.tensor, move.start_ns, move.end_ns):
                    self.note("spill", place, move.start_ns, 1, "the tensor is not in L2 while it is written out")
                continue
            if move.kind is MoveKind.FILL:
                self._check_in_hbm(move.tensor, move.start_ns, place)
            if not any(r.tensor == move.tensor and r.start_ns == move.start_ns for r in self.schedule.residencies):
                self.note("residency", move.tensor, move.start_ns, 1, f"the {move.kind.value} has no place in L2")
            if move.kind is MoveKind.PREFETCH:
                self._check_whole(move)

    def _check_whole(self, move: Move) -> None:
        """What is prefetched must be read whole: which part is read is known too late."""
        size = self.graph.tensor[move.tensor].size_bytes
        for reader in self.graph.consumers[move.tensor]:
            read = self.traffic.read_bytes((reader,), move.tensor)
            if read < size:
                self.note(
                    "move", f"prefetch of {move.tensor}", move.start_ns, size - read, f"{reader} reads a part of it"
                )

    def check_windows(self) -> None:
        """A residency has its tensor's size and ends with its last use."""
        unit = self.machine.alignment(MemoryName.L2)
        seen: set[tuple[str, int]] = set()
        for residency in self.schedule.residencies:
            tensor = self.graph.tensor.get(residency.tensor)
            if tensor is None:
                self.note("residency", residency.tensor, residency.start_ns, 1, "tensor is not in the graph")
                continue
            if (residency.tensor, residency.start_ns) in seen:
                self.note("residency", residency.tensor, residency.start_ns, 1, "is listed twice")
            seen.add((residency.tensor, residency.start_ns))
            size = -(-tensor.size_bytes // unit) * unit
            if residency.size_bytes != size:
                self.note(
                    "residency",
                    residency.tensor,
                    residency.start_ns,
                    residency.size_bytes - size,
                    f"holds {residency.size_bytes} bytes, the tensor takes {size}",
                )
        uses: dict[str, list[tuple[int, int]]] = {}
        for kernel in self.schedule.kernels:
            for read in kernel.reads:
                if read.source is Source.L2:
                    uses.setdefault(read.tensor, []).append((kernel.start_ns, kernel.end_ns))
        for move in self.schedule.moves:
            if move.kind is MoveKind.SPILL:
                uses.setdefault(move.tensor, []).append((move.start_ns, move.end_ns))
        for tensor_name, stays in self.stays.items():
            for stay in stays:
                last = max([end for begin, end in uses.get(tensor_name, ()) if stay.serves(begin, end)], default=0)
                last = max(last, stay.arrival_ns)
                if stay.residency.end_ns != last:
                    self.note(
                        "residency",
                        tensor_name,
                        stay.residency.end_ns,
                        stay.residency.end_ns - last,
                        f"ends at {stay.residency.end_ns} ns, its last use at {last} ns",
                    )

    def check_reads(self) -> None:
        """Kernels start after their tensors are complete and find them where they look for them."""
        for kernel in self.schedule.kernels:
            for read in kernel.reads:
                place = f"{kernel.label}: {read.tensor}"
                maker = self.maker.get(read.tensor)
                if maker is not None and maker.end_ns > kernel.start_ns:
                    early = maker.end_ns - kernel.start_ns
                    self.note("precedence", place, kernel.start_ns, early, f"is complete {early} ns after the start")
                if read.source is Source.HBM:
                    self._check_in_hbm(read.tensor, kernel.start_ns, place)
                elif not self._in_l2(read.tensor, kernel.start_ns, kernel.end_ns):
                    self.note("l2_read", place, kernel.start_ns, 1, "is not in L2 from arrival to the reader's end")

    def _in_l2(self, tensor: str, start_ns: int, end_ns: int) -> bool:
        return any(stay.serves(start_ns, end_ns) for stay in self.stays.get(tensor, ()))

    def _hbm_time(self, tensor: str) -> int | None:
        """From when on a tensor is in HBM; ``None`` if never."""
        known = self.graph.tensor.get(tensor)
        if known is not None and known.role.starts_in_hbm:
            return 0
        times = [move.end_ns for move in self.schedule.moves if move.tensor == tensor and move.kind is MoveKind.SPILL]
        maker = self.maker.get(tensor)
        if maker is not None and any(write.tensor == tensor and write.hbm for write in maker.writes):
            times.append(maker.end_ns)
        return min(times, default=None)

    def _check_in_hbm(self, tensor: str, time_ns: int, place: str) -> None:
        there = self._hbm_time(tensor)
        if there is None:
            self.note("hbm_read", place, time_ns, 1, "is read from HBM but never written there")
        elif there > time_ns:
            self.note("hbm_read", place, time_ns, there - time_ns, f"reaches HBM {there - time_ns} ns too late")

    def check_outputs(self) -> None:
        """Every output is in HBM at the end."""
        for tensor in self.graph.tensors:
            if tensor.role is Role.OUTPUT and self._hbm_time(tensor.name) is None:
                self.note("output", tensor.name, None, tensor.size_bytes, "is never written to HBM")

    def check_addresses(self, workspaces: Mapping[tuple[str, ...], int]) -> int:
        """What lies in L2 is aligned, within capacity and overlaps nothing; returns the peak in bytes."""
        capacity, unit = self.machine.capacity(MemoryName.L2), self.machine.alignment(MemoryName.L2)
        blocks = [
            (r.start_ns, r.end_ns, r.offset_bytes, r.offset_bytes + r.size_bytes, r.tensor)
            for r in self.schedule.residencies
        ]
        for kernel in self.schedule.kernels:
            size = workspaces.get(kernel.operators)
            if size is None:
                continue
            place = kernel.workspace_offset_bytes
            if (place is not None) != (size > 0):
                self.note(
                    "workspace",
                    kernel.label,
                    kernel.start_ns,
                    size,
                    f"needs {size} bytes of workspace in L2, {'none' if place is None else 'one'} is given",
                )
            if place is not None and size > 0:
                label = f"workspace of {kernel.label}"
                blocks.append((kernel.start_ns, kernel.end_ns, place, place + size, label))
        for begin, _, low, high, name in blocks:
            if low % unit:
                self.note("alignment", f"{name} in l2", begin, low % unit, f"address {low} is not a multiple of {unit}")
            if high > capacity:
                self.note(
                    "capacity", f"{name} in l2", begin, high - capacity, f"ends {high - capacity} bytes beyond l2"
                )
        return self._check_overlaps(sorted(blocks))

    def _check_overlaps(self, blocks: list[tuple[int, int, int, int, str]]) -> int:
        """Sweep over time with the blocks that are alive."""
        alive: list[tuple[int, int, int, int, str]] = []
        peak = 0
        for block in blocks:
            begin, _, low, high, name = block
            alive = [other for other in alive if other[1] > begin]
            for _, _, other_low, other_high, other_name in alive:
                shared = min(high, other_high) - max(low, other_low)
                if shared > 0:
                    self.note(
                        "overlap", f"{other_name}, {name} in l2", begin, shared, f"share {shared} bytes of addresses"
                    )
            alive.append(block)
            peak = max(peak, sum(other[3] - other[2] for other in alive))
        return peak
