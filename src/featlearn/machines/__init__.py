"""Recursive Feature Machines: estimators that learn features without backpropagation.

Names load at first use. ``load`` reads a machine that ``export`` wrote.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .columns import Columns
    from .conv_rfm import ConvRFMClassifier, ConvRFMRegressor
    from .deep_conv_rfm import DeepConvRFMClassifier
    from .edges import EdgeReport, edge_report
    from .export import load
    from .rfm import RFMClassifier, RFMRegressor
    from .rules import MetricRule

__all__ = [
    "Columns",
    "ConvRFMClassifier",
    "ConvRFMRegressor",
    "DeepConvRFMClassifier",
    "EdgeReport",
    "MetricRule",
    "RFMClassifier",
    "RFMRegressor",
    "edge_report",
    "load",
]

_HOME = {
    "Columns": "columns",
    "ConvRFMClassifier": "conv_rfm",
    "ConvRFMRegressor": "conv_rfm",
    "DeepConvRFMClassifier": "deep_conv_rfm",
    "EdgeReport": "edges",
    "MetricRule": "rules",
    "RFMClassifier": "rfm",
    "RFMRegressor": "rfm",
    "edge_report": "edges",
    "load": "export",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"Module {__name__!r} has no attribute {name!r}.")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
