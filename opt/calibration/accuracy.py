"""How far predictions are from measurement: by op, overall, and against yardsticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from opt.calibration.predictions import Prediction


@dataclass(frozen=True)
class Errors:
    """Errors of a set of rows.

    ``median`` and ``p90`` are quantiles of |ln(predicted / measured)|, ``bias`` the median of the signed one;
    ``rank`` is Spearman's correlation, ``None`` below three rows.
    """

    rows: int
    median: float
    p90: float
    bias: float
    rank: float | None

    @property
    def median_factor(self) -> float:
        """Half of the rows are within this factor."""
        return math.exp(self.median)

    @property
    def p90_factor(self) -> float:
        """Nine tenths of the rows are within this factor."""
        return math.exp(self.p90)


@dataclass(frozen=True)
class Accuracy:
    """What a table of predictions says about the model; ``aligned`` counts rows without ragged operands."""

    overall: Errors | None
    aligned: Errors | None
    by_op: dict[str, Errors]
    yardsticks: dict[str, Errors]
    worst: tuple[Prediction, ...]
    unmodelled: tuple[Prediction, ...]


def measure(predictions: Sequence[Prediction], worst: int = 10) -> Accuracy:
    """Errors of predictions, the ``worst`` rows and those without a prediction."""
    modelled = [p for p in predictions if p.predicted_us is not None]
    families: dict[str, list[Prediction]] = {}
    for prediction in modelled:
        families.setdefault(prediction.row.op, []).append(prediction)
    ranked = sorted(modelled, key=lambda p: -abs(p.log_error))
    return Accuracy(
        overall=_errors(modelled),
        aligned=_errors([p for p in modelled if p.row.aligned]),
        by_op={op: errors(group, _model) for op, group in sorted(families.items())},
        yardsticks={
            "roofline": errors(modelled, lambda p: p.roofline_us),
            "roofline at fixed efficiencies": errors(modelled, lambda p: p.fixed_us),
        }
        if modelled
        else {},
        worst=tuple(ranked[:worst]),
        unmodelled=tuple(p for p in predictions if p.predicted_us is None),
    )


def _errors(predictions: Sequence[Prediction]) -> Errors | None:
    return errors(predictions, _model) if predictions else None


def _model(prediction: Prediction) -> float | None:
    return prediction.predicted_us


def errors(predictions: Sequence[Prediction], value: Callable[[Prediction], float | None]) -> Errors:
    """Errors of one predictor over at least one row."""
    pairs = [(predicted, p.row.us) for p in predictions if (predicted := value(p))]
    signed = [math.log(predicted / us) for predicted, us in pairs]
    size = [abs(error) for error in signed]
    return Errors(
        rows=len(pairs),
        median=quantile(size, 0.5),
        p90=quantile(size, 0.9),
        bias=quantile(signed, 0.5),
        rank=_spearman(pairs) if len(pairs) > 2 else None,
    )


def quantile(values: Iterable[float], share: float) -> float:
    """Quantile by linear interpolation between order statistics."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Correlation of ranks, ties at their mean rank."""
    first, second = (_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    mean = (len(pairs) + 1) / 2
    covariance = sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True))
    spread = math.sqrt(sum((a - mean) ** 2 for a in first) * sum((b - mean) ** 2 for b in second))
    return covariance / spread if spread else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in range(start, end + 1):
            ranks[order[place]] = (start + end) / 2 + 1
        start = end + 1
    return ranks
