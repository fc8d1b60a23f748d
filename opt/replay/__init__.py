"""The judge: replays a schedule against graph and machine, and names every rule it breaks.

Imports ``instances`` alone. It takes nothing from the solvers on trust: groups are judged, tilings priced, buffers,
durations, channel phases, residencies and the latency recomputed from graph, machine and cost model.
"""

from opt.replay.judge import Replay, Violation, replay

__all__ = ["Replay", "Violation", "replay"]
