"""The cost model against measured kernels: rows in, errors out, and the few constants that are fitted."""

from opt.calibration.accuracy import Accuracy, Errors, measure
from opt.calibration.fit import Fit, cross_validate, fit
from opt.calibration.predictions import Prediction, predict
from opt.calibration.rows import MeasuredRow, read_rows

__all__ = [
    "Accuracy",
    "Errors",
    "Fit",
    "MeasuredRow",
    "Prediction",
    "cross_validate",
    "fit",
    "measure",
    "predict",
    "read_rows",
]
