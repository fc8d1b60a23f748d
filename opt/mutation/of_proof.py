"""Mistakes in what a schedule claims: its bound, its status, its seal and the question it answers."""

from __future__ import annotations

from opt.mutation.wound import Scene, Wound, kind


@kind
def bound_above_the_latency(scene: Scene) -> Wound:
    proof, above = scene.data["proof"], scene.data["latency_ns"] + 1
    proof["bounds_ns"]["search"] = above
    proof.update(bound_ns=above, bound_by="search")
    return Wound(("bound",), "search", 1)


@kind
def bound_of_zero(scene: Scene) -> Wound:
    scene.data["proof"].update(bound_ns=0, bound_by="none", bounds_ns={"none": 0})
    return Wound(("bound",), "none", 0)


@kind
def bound_that_is_not_its_best_argument(scene: Scene) -> Wound:
    proof = scene.data["proof"]
    proof["bound_ns"] -= 1
    return Wound(("bound",), proof["bound_by"], -1)


@kind
def bound_by_an_argument_that_is_not_there(scene: Scene) -> Wound:
    scene.data["proof"]["bound_by"] = "hearsay"
    return Wound(("bound",), "hearsay", 0)


@kind
def bound_by_traffic_misreported(scene: Scene) -> Wound:
    by = scene.either(-1, 1)
    scene.data["proof"]["bounds_ns"]["hbm_traffic"] += by
    return Wound(("bound",), "hbm_traffic", by)


@kind
def status_that_does_not_follow(scene: Scene) -> Wound:
    proof = scene.data["proof"]
    proof["status"] = "feasible" if proof["status"] == "optimal" else "optimal"
    return Wound(("status",), "schedule", 1)


@kind
def schedule_of_another_instance(scene: Scene) -> Wound:
    scene.data["instance"] = scene.data["instance"][::-1]
    return Wound(("instance",), "schedule", 1)
