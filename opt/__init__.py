"""Schedules of transformer kernels on Ascend chips, jointly optimised, replayed and bounded.

>>> import opt
>>> instance = opt.generate("gpt2", phase="decode", context=128, layers=1)
>>> result = opt.solve(instance, time_limit=10)
>>> opt.replay(instance, result.schedule).latency_ns == result.objective_ns
True
"""

import time

_STARTED = time.monotonic()  # the command line's clock, before the imports below take their time

from opt.api import (  # noqa: E402
    ablate,
    cost,
    generate,
    load_instance,
    load_plan,
    load_schedule,
    machines,
    models,
    plan,
    report,
    save,
    solve,
    solvers,
    trace,
)
from opt.exact_prices import exact  # noqa: E402
from opt.explaining import compare_schedules, explain  # noqa: E402
from opt.importing import from_captured, from_exported, from_onnx, from_torch, register_op  # noqa: E402
from opt.packing import pack, pack_lowest  # noqa: E402

# After the sub-package of the same name is loaded: the attribute `opt.replay` is the function, and
# `from opt.replay import ...` still finds the sub-package.
from opt.replay import replay  # noqa: E402
from opt.version import __version__  # noqa: E402

__all__ = [
    "__version__",
    "ablate",
    "compare_schedules",
    "cost",
    "exact",
    "explain",
    "from_captured",
    "from_exported",
    "from_onnx",
    "from_torch",
    "generate",
    "load_instance",
    "load_plan",
    "load_schedule",
    "machines",
    "models",
    "pack",
    "pack_lowest",
    "plan",
    "register_op",
    "replay",
    "report",
    "save",
    "solve",
    "solvers",
    "trace",
]
