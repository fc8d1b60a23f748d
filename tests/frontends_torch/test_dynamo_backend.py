"""torch.compile with the backend: the model runs as before, the plan is where it is promised, nothing is raised."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tiny import tiny_machine  # noqa: E402
from torch import nn  # noqa: E402

import opt  # noqa: E402
import opt.dynamo  # noqa: E402
import opt.embedding  # noqa: E402
from opt.dynamo import META, backend, graph_fingerprint  # noqa: E402
from opt.embedding import Planned  # noqa: E402

X = torch.linspace(-1, 1, 32 * 64).reshape(32, 64)


class Net(nn.Module):
    """Two products, an activation, and a residual."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(64, width), nn.Linear(width, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Nothing is compiled yet, and nothing was warned of."""
    torch._dynamo.reset()
    opt.dynamo._warned.clear()
    yield
    torch._dynamo.reset()


Graphs = list[torch.fx.GraphModule]


def compiled(model: Any, graphs: Graphs | None = None, **options: Any) -> Any:
    """A model compiled with the backend: greedy, without a cache, unless told otherwise."""
    given = {"solver": "greedy", "cache": "", **options}

    def noting(module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        if graphs is not None:
            graphs.append(module)
        return backend(module, inputs, options=given)

    return torch.compile(model, backend=noting, fullgraph=True)


def same(model: Any, run: Any, *inputs: Any) -> bool:
    """Whether two compute the same bits."""
    with torch.no_grad():
        return torch.equal(model(*inputs), run(*inputs))


def test_the_model_runs_unchanged_and_carries_its_plan(tmp_path: Path) -> None:
    graphs: Graphs = []
    plans: list[Planned] = []
    model = Net()
    run = compiled(model, graphs, plan=str(tmp_path / "plan.json"), on_plan=plans.append)
    assert same(model, run, X)
    (module,), (planned,) = graphs, plans
    assert module.meta[META] is planned
    assert opt.load_plan(tmp_path / "plan.json") == planned.plan
    kernels = {kernel.id: kernel for kernel in planned.plan.kernels}
    noted = {node.name: node.meta[META] for node in module.graph.nodes if META in node.meta}
    assert {name: kernel.id for name, kernel in noted.items()} == dict(planned.nodes)
    calls = [node.name for node in module.graph.nodes if node.op == "call_function"]
    assert set(noted) == set(calls) and len(calls) == 4
    assert all(kernels[kernel.id] is kernel for kernel in noted.values())
    assert not any("custom" in node.meta for node in module.graph.nodes)  # what the tracing needed is gone


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_results_of_transformers_are_those_of_eager(name: str) -> None:
    pytest.importorskip("transformers")
    from torch_models import MODELS

    model, ids = MODELS[name].build(), MODELS[name].ids()
    plans: list[Planned] = []
    with torch.no_grad():
        got = compiled(model, on_plan=plans.append)(**ids).logits
        assert torch.equal(got, model(**ids).logits)
    assert len(plans) == 1 and plans[0].notes == ()


def test_training_and_random_numbers_are_those_of_eager() -> None:
    model = nn.Sequential(Net(), nn.Dropout(0.5))
    grads = []
    for run in (model, compiled(model)):
        torch.manual_seed(7)
        model.zero_grad()
        run(X).square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_inner_backends_by_name_and_by_function() -> None:
    model = Net()
    seen: list[Any] = []

    def inner(module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        seen.append(module.meta[META])
        return lambda *given: tuple(result * 2 for result in module(*given))

    with torch.no_grad():
        assert torch.allclose(compiled(model, inner="aot_eager")(X), model(X))
        torch._dynamo.reset()
        assert torch.equal(compiled(model, inner=inner)(X), model(X) * 2)
    assert isinstance(seen[0], Planned)


def test_the_backend_is_found_by_its_name(tmp_path: Path) -> None:
    if "tilewright" not in torch._dynamo.list_backends():
        pytest.skip("not installed")
    model = Net()
    options = {"solver": "greedy", "cache": "", "plan": str(tmp_path / "plan.json"), "time_limit": 5.0}
    assert same(model, torch.compile(model, backend="tilewright", options=options), X)
    assert opt.load_plan(tmp_path / "plan.json").kernels


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("on purpose")


FAILURES: dict[str, tuple[str, dict[str, Any], bool]] = {
    # what fails: the function that is replaced, options, whether there is a plan in the end
    "capture": ("instances.frontends.torch_program.capture_torch", {}, False),
    "tracing": ("instances.frontends.torch_program._retrace", {}, False),
    "fingerprint": ("opt.dynamo.graph_fingerprint", {}, False),
    "import": ("opt.embedding.import_captured", {}, False),
    "plan": ("opt.api.plan", {}, False),
    "annotation": ("opt.dynamo._annotate", {}, False),
    "no such option": ("", {"solvr": "greedy"}, True),
    "no such solver": ("", {"solver": "nothing"}, True),
    "time that is none": ("", {"time_limit": "long"}, True),
    "no such machine": ("", {"machine": "nothing"}, False),
    "nothing fits": ("", {"machine": tiny_machine(in_core=0.01)}, False),
    "no place for the plan": ("", {"plan": "/proc/no/such/plan.json"}, True),
    "a function that fails": ("", {"on_plan": broken}, True),
    "no such inner backend": ("", {"inner": "nothing"}, True),
    "inner backend of no kind": ("", {"inner": 3}, True),
}


@pytest.mark.parametrize("case", FAILURES)
def test_whatever_fails_is_warned_of_once_and_the_model_runs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, options, has_plan = FAILURES[case]
    if place:
        monkeypatch.setattr(place, broken)
    model, graphs = Net(), []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", RuntimeWarning)
        run = compiled(model, graphs, **options)
        assert same(model, run, X)
        torch._dynamo.reset()
        assert same(model, run, X)  # compiled again: warned of already
    assert len(graphs) == 2
    assert (META in graphs[0].meta) is has_plan
    ours = [str(one.message) for one in seen if "tilewright" in str(one.message)]
    assert len(ours) == 1, ours
    assert ("runs without a plan" in ours[0]) is not has_plan


@pytest.mark.parametrize("case", ["import", "no such option", "no place for the plan", "no such inner backend"])
def test_a_build_in_which_warnings_are_errors_goes_on(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, options, _ = FAILURES[case]
    if place:
        monkeypatch.setattr(place, broken)
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(model, compiled(model, **options), X)


def test_a_search_that_fails_falls_back_to_the_greedy_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    solve = opt.api.solve

    def fails(instance: Any, limit: float, solver: str, **options: Any) -> Any:
        return solve(instance, limit, solver, **options) if solver == "greedy" else broken()

    monkeypatch.setattr(opt.api, "solve", fails)
    plans: list[Planned] = []
    model = Net()
    with pytest.warns(RuntimeWarning, match="RuntimeError: on purpose; fell back to the greedy plan") as seen:
        assert same(model, compiled(model, solver="cpsat", cache=str(tmp_path), on_plan=plans.append), X)
    assert len(seen) == 1
    torch._dynamo.reset()
    assert same(model, compiled(model, on_plan=plans.append), X)
    assert plans[0].plan.kernels == plans[1].plan.kernels
    assert not list(tmp_path.iterdir())  # a plan that was not asked for is not kept


@pytest.mark.parametrize("harm", ["unwritable", "corrupted"])
def test_a_cache_that_is_of_no_use_is_no_failure(harm: str, tmp_path: Path) -> None:
    model = Net()
    plans: list[Planned] = []
    folder = tmp_path / "cache"
    if harm == "unwritable":
        folder.write_text("a file where the folder should be")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for _ in range(2):
            torch._dynamo.reset()
            assert same(model, compiled(model, cache=str(folder), on_plan=plans.append), X)
            if harm == "corrupted":
                (entry,) = folder.iterdir()
                entry.write_bytes(b"\xff" + entry.read_bytes())
    assert [planned.cached for planned in plans] == [False, False]


def test_an_operator_that_is_not_mapped_is_priced_and_named() -> None:
    def strange(x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x) @ x.T

    with pytest.warns(RuntimeWarning, match=r"special_bessel_j0\.default \(1 times") as seen:
        assert same(strange, compiled(strange), X)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        torch._dynamo.reset()
        assert same(strange, compiled(strange, allow_unknown=True), X)


def test_a_second_process_is_answered_from_the_cache_and_prints_nothing(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys, json, torch
        from torch import nn
        from opt.dynamo import backend
        def note(planned):
            print(json.dumps([planned.cached, planned.runtime_s, dict(planned.nodes)]), file=sys.stderr)
        options = {{"solver": "greedy", "cache": {str(tmp_path / "cache")!r}, "on_plan": note}}
        model, x = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)), torch.ones(32, 64)
        with torch.no_grad():
            run = torch.compile(model, backend=lambda m, i: backend(m, i, options=options))
            assert torch.equal(run(x), model(x))
        """
    )
    answers = []
    for _ in range(2):
        found = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (0, ""), found.stderr
        answers.append(json.loads(found.stderr.splitlines()[-1]))
    assert [answer[0] for answer in answers] == [False, True]
    assert answers[0][2] == answers[1][2]
    print(f"planned in {answers[0][1]:.3f} s, answered from the cache in {answers[1][1]:.4f} s", file=sys.stderr)


def fingerprint(model: Any, *inputs: Any, dynamic: bool = False) -> str:
    found = []

    def noting(module: torch.fx.GraphModule, given: list[Any]) -> Callable[..., Any]:
        found.append(graph_fingerprint(module, given))
        return module.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=noting, fullgraph=True, dynamic=dynamic)(*inputs)
    (one,) = found
    return one


class Outer(nn.Module):
    """Calls a region of its own."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inner = torch.compiler.nested_compile_region(lambda x: torch.relu(x) * factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + 1


def test_fingerprints_tell_graphs_apart() -> None:
    graphs = {
        "net": (Net(), X),
        "wider": (Net(256), X),
        "other shape": (Net(), X[:16]),
        "other type": (Net().double(), X.double()),
        "other operator": (lambda x: torch.relu(x) * 2, X),
        "other number": (lambda x: torch.relu(x) * 3, X),
        "region": (Outer(2.0), X),
        "other region": (Outer(3.0), X),
    }
    found = {name: fingerprint(model, given) for name, (model, given) in graphs.items()}
    found["dynamic"] = fingerprint(Net(), X, dynamic=True)
    found["dynamic, other size"] = fingerprint(Net(), X[:16], dynamic=True)
    assert len(set(found.values())) == len(found)
    assert fingerprint(Net(), torch.zeros(32, 64)) == found["net"]  # neither weights nor inputs are in it
    assert fingerprint(Outer(2.0), X) == found["region"]


def test_equal_models_share_a_fingerprint_whatever_their_modules_are_called() -> None:
    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            setattr(self, name, nn.Linear(64, 64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            (layer,) = self.children()
            return torch.relu(layer(x))

    assert fingerprint(Named("first"), X) == fingerprint(Named("second"), X)


def test_threads_compile_at_once(tmp_path: Path) -> None:
    wrong: list[str] = []

    def work(width: int) -> None:
        try:
            plans: list[Planned] = []
            model = Net(width)
            run = compiled(model, cache=str(tmp_path), on_plan=plans.append)
            if not same(model, run, X) or len(plans) != 1:
                wrong.append(f"{width}: {len(plans)} plans")
        except Exception as error:
            wrong.append(f"{width}: {error!r}")

    threads = [Thread(target=work, args=(width,)) for width in (128, 128, 192)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(tmp_path.iterdir())) == 2


def test_the_backend_says_nothing_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    assert same(Net(), compiled(Net(), time_limit=2.0), X)
    assert capfd.readouterr().out == ""


def test_a_graph_without_inputs_of_known_shape_is_left_alone() -> None:
    module = torch.fx.symbolic_trace(Net())
    with pytest.warns(RuntimeWarning, match="runs without a plan"):
        run = backend(module, [])
    assert same(Net(), run, X)
    assert META not in module.meta
