"""Feature learning: how a model comes to depend on the directions of its input that matter.

How much, and where, does my network learn features?
    One call on any torch model gives one report: ``measure_features``, ``FeatureReport``, ``LayerReport``.
    Along training: ``FeatureTracker``. Before it, from inputs and labels alone: ``early_alignment``.
    From a checkpoint to a reference: ``lazy_rich``, ``kernel_drift``. Of the last features: ``neural_collapse``.
    Of one loss: ``canonical_relations``, ``feature_speed``.
    The matrices themselves: ``agop_of_module``, ``agop_of_function``, ``patch_agop``.
    Layers of your own, and parts of layers: ``register_layer_rule``, ``Rows``.

Can models without backpropagation learn features too?
    Recursive feature machines, as scikit-learn estimators: ``RFMRegressor``, ``RFMClassifier``; for many rows
    ``RFMTreeRegressor``, ``RFMTreeClassifier``; for images ``ConvRFMClassifier``, ``ConvRFMRegressor``,
    ``DeepConvRFMClassifier``.
    Matrix completion: ``LinearRFM``. Layers of machines: ``deep_rfm``. Grokking without a network: ``grok``.

How do I get more of it, faster, or in another layer?
    Optimiser: ``SLO``, ``slo_groups``, ``SpeedUpSlowest``. Rates and initial scales: ``feature_speed_groups``,
    ``rescale_init``, ``FeatureSpeedTuner``. Along training: ``FeatureSpeedTracker``. Which end learns first:
    ``layer_balance``, ``balance_of``. Does it carry to another width or depth: ``coordinate_check``.

What do the equations predict, exactly, and what do they say about my run?
    Solvable models, phase diagrams and ``diagnose`` are in ``featlearn.dynamics``.

Did it learn the right feature, and can I use it?
    Groups: ``group_report``. Features and what they tell: ``extract_features``, ``feature_probe``, ``probe_model``.
    A last layer that ignores the spurious attribute: ``DFRClassifier``. Richer features for other environments:
    ``FeATPretrainer``, ``OODHead``.

Can what was learned be read as a few rules?
    Small trees on learned features, as scikit-learn estimators: ``FeatureTreeClassifier``, ``FeatureTreeRegressor``.

Names load at first use: ``import featlearn`` imports no other package. Data to try things on is in
``featlearn.datasets``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import agop, datasets, dynamics, kernels, linalg, machines, measure, plots, report, robust, training, trees
    from .agop.definition import agop_of_function
    from .agop.feature_speed import feature_speed
    from .agop.layers import Rows, register_layer_rule
    from .agop.of_module import agop_of_module, patch_agop
    from .machines.conv_rfm import ConvRFMClassifier, ConvRFMRegressor
    from .machines.deep_conv_rfm import DeepConvRFMClassifier
    from .machines.deep_rfm import deep_rfm
    from .machines.grokking import grok
    from .machines.linear_rfm import LinearRFM
    from .machines.rfm import RFMClassifier, RFMRegressor
    from .machines.tree import RFMTreeClassifier, RFMTreeRegressor
    from .measure.collapse import neural_collapse
    from .measure.drift import kernel_drift, lazy_rich
    from .measure.early import early_alignment
    from .measure.features import measure_features
    from .measure.relations import canonical_relations
    from .measure.results import FeatureReport, LayerReport
    from .measure.tracker import FeatureTracker
    from .robust.dfr import DFRClassifier
    from .robust.feat import FeATPretrainer
    from .robust.features import extract_features
    from .robust.group_report import group_report
    from .robust.model_probe import probe_model
    from .robust.ood import OODHead
    from .robust.probe import feature_probe
    from .training.balance import balance_of, layer_balance
    from .training.coordinate import coordinate_check
    from .training.groups import feature_speed_groups
    from .training.rescale import rescale_init
    from .training.slo import SLO, slo_groups
    from .training.slowest import SpeedUpSlowest
    from .training.speed_tracker import FeatureSpeedTracker
    from .training.tuner import FeatureSpeedTuner
    from .trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

__version__ = "0.1.0"

__all__ = [
    # How much, and where, does my network learn features?
    "measure_features",
    "FeatureReport",
    "LayerReport",
    "FeatureTracker",
    "lazy_rich",
    "kernel_drift",
    "neural_collapse",
    "canonical_relations",
    "early_alignment",
    "feature_speed",
    "agop_of_module",
    "agop_of_function",
    "patch_agop",
    "register_layer_rule",
    "Rows",
    # Can models without backpropagation learn features too?
    "RFMRegressor",
    "RFMClassifier",
    "RFMTreeRegressor",
    "RFMTreeClassifier",
    "ConvRFMClassifier",
    "ConvRFMRegressor",
    "DeepConvRFMClassifier",
    "LinearRFM",
    "deep_rfm",
    "grok",
    # How do I get more of it, faster, or in another layer?
    "SLO",
    "slo_groups",
    "SpeedUpSlowest",
    "feature_speed_groups",
    "rescale_init",
    "FeatureSpeedTuner",
    "FeatureSpeedTracker",
    "coordinate_check",
    "layer_balance",
    "balance_of",
    # Did it learn the right feature, and can I use it?
    "group_report",
    "extract_features",
    "feature_probe",
    "probe_model",
    "DFRClassifier",
    "FeATPretrainer",
    "OODHead",
    # Can what was learned be read as a few rules?
    "FeatureTreeClassifier",
    "FeatureTreeRegressor",
    # rooms with names of their own
    "agop",
    "datasets",
    "dynamics",
    "kernels",
    "linalg",
    "machines",
    "measure",
    "plots",
    "report",
    "robust",
    "training",
    "trees",
]

_HOME = {
    "measure_features": "measure.features",
    "FeatureReport": "measure.results",
    "LayerReport": "measure.results",
    "FeatureTracker": "measure.tracker",
    "lazy_rich": "measure.drift",
    "kernel_drift": "measure.drift",
    "neural_collapse": "measure.collapse",
    "canonical_relations": "measure.relations",
    "early_alignment": "measure.early",
    "feature_speed": "agop.feature_speed",
    "agop_of_module": "agop.of_module",
    "agop_of_function": "agop.definition",
    "patch_agop": "agop.of_module",
    "register_layer_rule": "agop.layers",
    "Rows": "agop.layers",
    "RFMRegressor": "machines.rfm",
    "RFMClassifier": "machines.rfm",
    "RFMTreeRegressor": "machines.tree",
    "RFMTreeClassifier": "machines.tree",
    "ConvRFMClassifier": "machines.conv_rfm",
    "ConvRFMRegressor": "machines.conv_rfm",
    "DeepConvRFMClassifier": "machines.deep_conv_rfm",
    "LinearRFM": "machines.linear_rfm",
    "deep_rfm": "machines.deep_rfm",
    "grok": "machines.grokking",
    "SLO": "training.slo",
    "slo_groups": "training.slo",
    "SpeedUpSlowest": "training.slowest",
    "feature_speed_groups": "training.groups",
    "rescale_init": "training.rescale",
    "FeatureSpeedTuner": "training.tuner",
    "FeatureSpeedTracker": "training.speed_tracker",
    "coordinate_check": "training.coordinate",
    "layer_balance": "training.balance",
    "balance_of": "training.balance",
    "group_report": "robust.group_report",
    "extract_features": "robust.features",
    "feature_probe": "robust.probe",
    "probe_model": "robust.model_probe",
    "DFRClassifier": "robust.dfr",
    "FeATPretrainer": "robust.feat",
    "OODHead": "robust.ood",
    "FeatureTreeClassifier": "trees.estimators",
    "FeatureTreeRegressor": "trees.estimators",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in __all__:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"Module {__name__!r} has no attribute {name!r}.")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
