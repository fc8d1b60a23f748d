"""Least time of a task of tile operations: proven lower bounds for sub-problem 3."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from formulations.intracore.reach import ancestors_of, heads_and_tails
from formulations.intracore.traffic import least_cover
from instances.intracore import Pipe, TileTask, spill_cycles


def pipe_bounds(task: TileTask, heads: Mapping[int, int], tails: Mapping[int, int]) -> dict[Pipe, int]:
    """For each pipe, the least time of its operations one at a time, each with what comes before it and after it.

    An operation starts no earlier than its head, and after its end there is still its tail. The least time of one
    machine, when operations may be interrupted, is found by always running the one with the longest tail (Jackson's
    preemptive schedule); no order without interruption takes less.
    """
    return {
        pipe: _jackson([(heads[op.id], op.cycles, tails[op.id]) for op in task.operations if op.pipe is pipe])
        for pipe in Pipe
        if any(op.pipe is pipe for op in task.operations)
    }


def _jackson(jobs: list[tuple[int, int, int]]) -> int:
    """Makespan of the preemptive schedule of (head, cycles, tail) on one machine."""
    waiting = sorted(jobs)
    ready: list[tuple[int, int]] = []  # -tail, cycles left
    now = best = place = 0
    while ready or place < len(waiting):
        if not ready:
            now = max(now, waiting[place][0])
        while place < len(waiting) and waiting[place][0] <= now:
            head, cycles, tail = waiting[place]
            heapq.heappush(ready, (-tail, cycles))
            best = max(best, head + cycles + tail)
            place += 1
        tail, left = heapq.heappop(ready)
        until = waiting[place][0] if place < len(waiting) else now + left
        done = min(left, until - now)
        now += done
        if left > done:
            heapq.heappush(ready, (tail, left - done))
        else:
            best = max(best, now - tail)
    return best


def path_bound(task: TileTask) -> int:
    """The longest path of operations."""
    end: dict[int, int] = {}
    for node in task.order:
        end[node] = task.operation[node].cycles + max((end[other] for other in task.waits[node]), default=0)
    return max(end.values())


def spill_bound(task: TileTask, heads: Mapping[int, int], tails: Mapping[int, int], traffic: int) -> int:
    """Least time of MTE2 and MTE3 with the moves of spills, where ``traffic`` units of extra traffic are proven.

    Each spill of a buffer adds its traffic, and its cycles to both pipes (none to MTE3 where main memory has the
    content). The least cycles of spills that come to so much traffic, any number of each, add to those of the pipe's
    own operations. Where a spill is of use, a user comes before its way out and another after its way back; an answer
    without its spills of no use is legal, too, so the traffic is proven for those of use. So nothing on the pipe
    begins before the least head of all that may run there, or ends later than the least tail before the end.
    """
    spillable = [one for one in task.buffers if len(task.users[one.id]) > 1]
    if traffic <= 0 or not spillable:
        return 0
    best = 0
    users = {user for one in spillable for user in task.users[one.id]}
    head = min(heads[user] + task.operation[user].cycles for user in users)
    tail = min(tails[user] + task.operation[user].cycles for user in users)
    for pipe in (Pipe.MTE2, Pipe.MTE3):
        own = [op for op in task.operations if op.pipe is pipe]
        items = {
            (
                task.traffic_of_spill(one.id),
                0 if pipe is Pipe.MTE3 and one.id in task.backed else spill_cycles(one.size),
            )
            for one in spillable
        }
        extra = least_cover(traffic, items)
        begin = min([heads[op.id] for op in own] + [head])
        end = min([tails[op.id] for op in own] + [tail])
        best = max(best, begin + sum(op.cycles for op in own) + extra + end)
    return best


def energy_bound(
    task: TileTask, heads: Mapping[int, int], tails: Mapping[int, int], most_traffic: int | None = None
) -> int:
    """Least time by the memories: size times least stay of all buffers of one, over its capacity.

    A buffer is in its memory while each of its users runs: for the cycles of its users on one pipe, and of users that
    wait for each other. Where it is never spilled, it stays for the longest path from one user to another, both
    included. A spill makes up for the difference at most, so with bounded traffic all spills make up for no more than
    that traffic times the largest difference, times size, per unit of traffic. Nothing is there before the least head
    of a user of the memory, or after the least tail of one from the end.
    """
    bit, above = ancestors_of(task)
    best = 0
    after: dict[int, list[int]] = {node: [] for node in task.order}
    for node, before in task.waits.items():
        for other in before:
            after[other].append(node)
    for place, capacity in task.capacity.items():
        members = [one for one in task.buffers if one.place is place and task.users[one.id]]
        if not members:
            continue
        least = whole = 0
        rate = 0.0
        for one in members:
            users = sorted(task.users[one.id], key=bit.__getitem__)
            short = _users_alone(task, users, bit, above)
            least += one.size * short
            if most_traffic is not None:
                long = max(short, _longest_between(task, users, bit, after))
                whole += one.size * long
                rate = max(rate, one.size * (long - short) / task.traffic_of_spill(one.id))
        if most_traffic is not None:
            least = max(least, int(whole - rate * most_traffic - 1e-6))
        users_of = {user for one in members for user in task.users[one.id]}
        head = min(heads[user] for user in users_of)
        tail = min(tails[user] for user in users_of)
        best = max(best, head + -(-least // capacity) + tail)
    return best


def _users_alone(task: TileTask, users: list[int], bit: Mapping[int, int], above: Mapping[int, int]) -> int:
    """Most cycles of users of which no two can run at one time: of one pipe, or each waiting for the one before."""
    busy: dict[Pipe, int] = {}
    chain: dict[int, int] = {}
    for user in users:
        op = task.operation[user]
        busy[op.pipe] = busy.get(op.pipe, 0) + op.cycles
        waits = above[user]
        chain[user] = op.cycles + max((chain[other] for other in chain if waits >> bit[other] & 1), default=0)
    return max(*busy.values(), *chain.values())


def _longest_between(task: TileTask, users: list[int], bit: Mapping[int, int], after: Mapping[int, list[int]]) -> int:
    """Longest path that begins with the first user and ends with another."""
    first, last = users[0], bit[users[-1]]
    length = {first: task.operation[first].cycles}
    queue, seen = [(bit[first], first)], {first}
    while queue:  # in topological order
        _, node = heapq.heappop(queue)
        for other in after[node]:
            if bit[other] <= last:
                length[other] = max(length.get(other, 0), length[node] + task.operation[other].cycles)
                if other not in seen:
                    seen.add(other)
                    heapq.heappush(queue, (bit[other], other))
    return max(length[user] for user in users if user in length)


def heads_and_tails_of(task: TileTask) -> tuple[dict[int, int], dict[int, int]]:
    """Least cycles before each operation and after it."""
    return heads_and_tails(task, lambda node: task.operation[node].cycles)
