"""Figures of results, drawn with matplotlib from plain dictionaries.

``plot_feature_report``, ``plot_centered``, ``plot_spectra`` and ``plot_directions`` draw ``FeatureReport.to_dict()``;
``plot_history`` draws what a ``FeatureTracker`` recorded, ``plot_explained`` where that comes from, ``plot_early`` an
``EarlyAlignment``; ``plot_grokking`` a ``GrokkingResult``, ``plot_deep_rfm`` a
``DeepRFMResult``. ``plot_machine`` and its parts ``plot_importances``, ``plot_scree`` and ``plot_selection`` draw
``to_dict()`` of a fitted machine, and of its selection; ``plot_tree`` that of a tree. ``plot_filters`` draws
``EdgeReport.to_dict()``, ``plot_saliency`` images and where a machine looks on them, ``plot_deep_conv_rfm`` a deep
convolutional machine. ``plot_speed`` draws a ``FeatureSpeed``, ``plot_speed_history`` what a ``FeatureSpeedTracker``
recorded, ``plot_layer_balance`` and ``plot_balance`` scales of consecutive layers, ``plot_coordinates`` a
``CoordinateCheck``. ``plot_hyperbola`` puts solvable models into one plane of output and kernel,
``plot_mechanism_plane`` linear networks into that of alignment and norm; ``plot_phase_diagram``, ``plot_mechanisms``
and ``plot_diagnosis`` draw what their namesakes return.
``plot_feature_tree`` draws ``export_dict()`` of a tree on learned features, ``plot_tree_path`` accuracy against its
size, ``plot_permutation`` a ``PermutationReport``. Names load at first use, and matplotlib with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .balance import plot_balance, plot_layer_balance
    from .coordinates import plot_coordinates
    from .deep_rfm import plot_deep_rfm
    from .diagnosis import plot_diagnosis
    from .dynamics import plot_hyperbola, plot_mechanism_plane
    from .explained import plot_early, plot_explained
    from .feature_tree import plot_feature_tree, plot_tree_path
    from .features import plot_centered, plot_directions, plot_feature_report, plot_spectra
    from .filters import plot_deep_conv_rfm, plot_filters, plot_saliency
    from .grokking import plot_grokking
    from .machines import plot_importances, plot_machine, plot_scree, plot_selection
    from .mechanisms import plot_mechanisms
    from .permutation import plot_permutation
    from .phase_diagram import plot_phase_diagram
    from .speed import plot_speed, plot_speed_history
    from .tracking import plot_history
    from .trees import plot_tree

__all__ = [
    "plot_balance",
    "plot_centered",
    "plot_coordinates",
    "plot_deep_conv_rfm",
    "plot_deep_rfm",
    "plot_diagnosis",
    "plot_directions",
    "plot_early",
    "plot_explained",
    "plot_feature_report",
    "plot_feature_tree",
    "plot_filters",
    "plot_grokking",
    "plot_history",
    "plot_hyperbola",
    "plot_importances",
    "plot_layer_balance",
    "plot_machine",
    "plot_mechanism_plane",
    "plot_mechanisms",
    "plot_permutation",
    "plot_phase_diagram",
    "plot_saliency",
    "plot_scree",
    "plot_selection",
    "plot_spectra",
    "plot_speed",
    "plot_speed_history",
    "plot_tree",
    "plot_tree_path",
]

_HOME = {
    "plot_balance": "balance",
    "plot_centered": "features",
    "plot_coordinates": "coordinates",
    "plot_deep_conv_rfm": "filters",
    "plot_deep_rfm": "deep_rfm",
    "plot_diagnosis": "diagnosis",
    "plot_directions": "features",
    "plot_early": "explained",
    "plot_explained": "explained",
    "plot_feature_report": "features",
    "plot_feature_tree": "feature_tree",
    "plot_filters": "filters",
    "plot_grokking": "grokking",
    "plot_history": "tracking",
    "plot_hyperbola": "dynamics",
    "plot_importances": "machines",
    "plot_layer_balance": "balance",
    "plot_machine": "machines",
    "plot_mechanism_plane": "dynamics",
    "plot_mechanisms": "mechanisms",
    "plot_permutation": "permutation",
    "plot_phase_diagram": "phase_diagram",
    "plot_saliency": "filters",
    "plot_scree": "machines",
    "plot_selection": "machines",
    "plot_spectra": "features",
    "plot_speed": "speed",
    "plot_speed_history": "speed",
    "plot_tree": "trees",
    "plot_tree_path": "feature_tree",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"Module {__name__!r} has no attribute {name!r}.")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
