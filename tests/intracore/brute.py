"""Optima of very small tile tasks by trying everything that the rules allow: no bound, no model, no relaxation."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from instances.intracore import COUNTED, SINGLE, Place, TileTask, spill_cycles

UNBORN, OUT, GONE = -1, -2, -3
"""States of a buffer that is nowhere in its memory; else its offset."""

Places = tuple[int, ...]


def least_residency(task: TileTask) -> int | None:
    """Least peak over all orders; ``None`` where no order has one live buffer at a time in each L0 memory."""
    nodes = list(task.order)
    bit = {node: 1 << place for place, node in enumerate(nodes)}
    users = {b: sum(bit[u] for u in found) for b, found in task.users.items()}
    waits = {node: sum(bit[w] for w in task.waits[node]) for node in nodes}
    unused = max((b.size for b in task.buffers if not users[b.id] and b.place in COUNTED), default=0)
    heap, seen = [(unused, 0)], set()
    while heap:
        peak, done = heapq.heappop(heap)
        if done == (1 << len(nodes)) - 1:
            return peak
        if done in seen:
            continue
        seen.add(done)
        for node in nodes:
            if done & bit[node] or waits[node] & ~done:
                continue
            live = [b for b in task.buffers if users[b.id] & (done | bit[node]) and users[b.id] & ~done]
            if any(sum(b.place is place for b in live) > 1 for place in SINGLE):
                continue
            now = sum(b.size for b in live if b.place in COUNTED)
            heapq.heappush(heap, (max(peak, now), done | bit[node]))
    return None


class _Walks:
    """What can be done next with operations ``done`` and buffers at ``at``."""

    def __init__(self, task: TileTask) -> None:
        self.task = task
        self.nodes = list(task.order)
        self.bit = {node: 1 << place for place, node in enumerate(self.nodes)}
        self.index = {one.id: place for place, one in enumerate(task.buffers)}
        self.users = [sum(self.bit[u] for u in task.users[one.id]) for one in task.buffers]
        self.waits = {node: sum(self.bit[w] for w in task.waits[node]) for node in self.nodes}
        self.named = {op.id: [self.index[b] for b in dict.fromkeys(op.buffers)] for op in task.operations}
        self.whole = (1 << len(self.nodes)) - 1

    def offsets(self, at: Places, buffer: int) -> Iterator[int]:
        """Where a buffer can lie."""
        one = self.task.buffers[buffer]
        taken = [
            (offset, offset + other.size)
            for offset, other in zip(at, self.task.buffers, strict=True)
            if offset >= 0 and other.place is one.place
        ]
        for offset in range(self.task.capacity[one.place] - one.size + 1):
            if all(offset + one.size <= low or high <= offset for low, high in taken):
                yield offset

    def operations(self, done: int, at: Places) -> Iterator[tuple[int, Places]]:
        """Operations that can run, with where new buffers are put."""
        for node in self.nodes:
            if done & self.bit[node] or self.waits[node] & ~done:
                continue
            if all(at[b] >= UNBORN for b in self.named[node]):
                new = [b for b in self.named[node] if at[b] == UNBORN]
                yield from ((node, put) for put in self._put(at, new))

    def _put(self, at: Places, new: list[int]) -> Iterator[Places]:
        if not new:
            yield at
            return
        for offset in self.offsets(at, new[0]):
            yield from self._put((*at[: new[0]], offset, *at[new[0] + 1 :]), new[1:])

    def freed(self, done: int, at: Places) -> Places:
        """Buffers that are at an end are gone."""
        return tuple(GONE if o >= 0 and not self.users[b] & ~done else o for b, o in enumerate(at))

    def spillable(self, done: int, at: Places) -> list[int]:
        """Buffers that somebody has used and somebody will."""
        return [b for b, o in enumerate(at) if o >= 0 and self.users[b] & done and self.users[b] & ~done]


def least_traffic(task: TileTask) -> int | None:
    """Least extra traffic over all orders, offsets and spills; ``None`` where there is no answer."""
    walks = _Walks(task)
    start: Places = tuple(UNBORN if walks.users[b] else GONE for b in range(len(task.buffers)))
    heap, seen = [(0, 0, start)], set()
    while heap:
        traffic, done, at = heapq.heappop(heap)
        if done == walks.whole:
            return traffic
        if (done, at) in seen:
            continue
        seen.add((done, at))
        for node, put in walks.operations(done, at):
            now = done | walks.bit[node]
            heapq.heappush(heap, (traffic, now, walks.freed(now, put)))
        for b in walks.spillable(done, at):
            price = task.traffic_of_spill(task.buffers[b].id)
            heapq.heappush(heap, (traffic + price, done, (*at[:b], OUT, *at[b + 1 :])))
        for b, o in enumerate(at):
            if o == OUT:
                for offset in walks.offsets(at, b):
                    heapq.heappush(heap, (traffic, done, (*at[:b], offset, *at[b + 1 :])))
    return None


def least_time(task: TileTask, most_traffic: int | None = None) -> int | None:
    """Least time over all orders, offsets and spills with so much extra traffic; ``None`` where there is no answer."""
    walks = _Walks(task)
    buffers = task.buffers
    start: Places = tuple(UNBORN if walks.users[b] else GONE for b in range(len(buffers)))
    size = [one.size for one in buffers]
    best: list[int | None] = [None]
    seen: set[object] = set()
    cap = sum(2 * one.size * max(0, len(task.users[one.id]) - 1) for one in buffers)
    limit = cap if most_traffic is None else most_traffic
    ends0 = (0,) * len(walks.nodes)
    zero = (0,) * len(buffers)
    cells0 = tuple((0,) * task.capacity[place] for place in Place)
    number = {place: k for k, place in enumerate(Place)}
    pipes = ("MTE1", "MTE2", "MTE3", "FIXP", "CUBE", "VECTOR")
    rank = {node: place for place, node in enumerate(walks.nodes)}

    def claim(cells: tuple[Places, ...], b: int, offset: int) -> int:
        return max(cells[number[buffers[b].place]][offset : offset + size[b]])

    def release(cells: tuple[Places, ...], b: int, offset: int, when: int) -> tuple[Places, ...]:
        k = number[buffers[b].place]
        row = list(cells[k])
        for cell in range(offset, offset + size[b]):
            row[cell] = max(row[cell], when)
        return (*cells[:k], tuple(row), *cells[k + 1 :])

    def visit(
        done: int,
        at: Places,
        ends: Places,
        queue: Places,
        since: Places,
        last: Places,
        cells: tuple[Places, ...],
        traffic: int,
    ) -> None:
        span = max((*ends, *queue))
        if best[0] is not None and span >= best[0]:
            return
        if done == walks.whole:
            best[0] = span
            return
        key = (done, at, ends, queue, since, last, cells, traffic)
        if key in seen:
            return
        seen.add(key)
        for node, put in walks.operations(done, at):
            op = task.operation[node]
            begun = list(since)
            for b in walks.named[node]:
                if at[b] == UNBORN:
                    begun[b] = claim(cells, b, put[b])
            pipe = pipes.index(op.pipe.value)
            ready = [queue[pipe], *(ends[rank[w]] for w in task.waits[node]), *(begun[b] for b in walks.named[node])]
            end = max(ready) + op.cycles
            now = done | walks.bit[node]
            used = tuple(max(x, end) if b in walks.named[node] else x for b, x in enumerate(last))
            freed = walks.freed(now, put)
            left = cells
            for b in walks.named[node]:
                if freed[b] == GONE:
                    left = release(left, b, put[b], max(used[b], begun[b]))
            visit(
                now,
                freed,
                (*ends[: rank[node]], end, *ends[rank[node] + 1 :]),
                (*queue[:pipe], end, *queue[pipe + 1 :]),
                tuple(begun),
                used,
                left,
                traffic,
            )
        for b in walks.spillable(done, at):
            price = task.traffic_of_spill(buffers[b].id)
            if traffic + price <= limit:
                cycles = 0 if buffers[b].id in task.backed else spill_cycles(size[b])
                end = max(last[b], since[b], queue[2]) + cycles
                visit(
                    done,
                    (*at[:b], OUT, *at[b + 1 :]),
                    ends,
                    (*queue[:2], end, *queue[3:]),
                    (*since[:b], end, *since[b + 1 :]),
                    last,
                    release(cells, b, at[b], end),
                    traffic + price,
                )
        for b, o in enumerate(at):
            if o == OUT:
                for offset in walks.offsets(at, b):
                    end = max(since[b], queue[1], claim(cells, b, offset)) + spill_cycles(size[b])
                    visit(
                        done,
                        (*at[:b], offset, *at[b + 1 :]),
                        ends,
                        (queue[0], end, *queue[2:]),
                        (*since[:b], end, *since[b + 1 :]),
                        last,
                        cells,
                        traffic,
                    )

    visit(0, start, ends0, (0,) * 6, zero, zero, cells0, 0)
    return best[0]
