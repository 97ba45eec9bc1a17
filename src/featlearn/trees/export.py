"""A fitted tree as rules in words, and as plain values from which it predicts the same again."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn.utils.validation import check_is_fitted

from .. import __version__
from .._parameters import check_count
from ..exceptions import DataError
from .features import FeatureMap, LinearMap, PrototypeMap
from .inputs import Inputs
from .rules import Rule, rules_of
from .tree import Tree

if TYPE_CHECKING:
    from .estimators import FeatureTreeBase

__all__ = ["FORMAT", "rule_text", "tree_from_dict", "tree_to_dict", "tree_to_text"]

FORMAT, VERSION = "featlearn tree", 1
UNITS = ("original", "standardized")
SHARES = 3  # classes that a leaf tells, the most frequent ones
ROUNDING = 1e-12  # of the largest value: what is smaller is told as 0


def tree_to_dict(fitted: FeatureTreeBase, *, exact: bool = True) -> dict[str, Any]:
    """Plain values, ready for JSON: see :meth:`FeatureTreeClassifier.export_dict`.

    Without ``exact`` what predictions are computed from is left out, which only features of a known kind can give.
    """
    check_is_fitted(fitted)
    tree, rules, names = fitted.tree_, rules_of(fitted.map_, fitted.inputs_), fitted.input_names_
    classes = getattr(fitted, "classes_", None)
    return {
        "format": FORMAT,
        "version": VERSION,
        "task": "regression" if classes is None else "classification",
        "units": "original",
        "features": list(names),
        "outputs": list(fitted.output_names_),
        "classes": None if classes is None else classes.tolist(),
        "nodes": [_node(tree, rules, names, node) for node in range(tree.n_nodes)],
        "importances": fitted.feature_importances_.tolist(),
        "selection": fitted.selection_,
        "predict_mode": "fuzzy" if fitted.fuzzy_bandwidth_ else "crisp",
        "bandwidth": fitted.fuzzy_bandwidth_,
        "exact": _exact(fitted) if exact else None,
        "versions": {
            "featlearn": __version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "python": platform.python_version(),
        },
    }


def _node(tree: Tree, rules: list[Rule], names: tuple[str, ...], node: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": node,
        "left": None,
        "right": None,
        "n": float(tree.n_node_weight[node]),
        "value": tree.value[node].tolist(),
        "gain": float(tree.gain[node]),
        "impurity": float(tree.impurity[node]),
    }
    if tree.is_leaf[node]:
        return told
    feature = int(tree.feature[node])
    rule = rules[feature]
    return told | {
        "left": int(tree.children_left[node]),
        "right": int(tree.children_right[node]),
        "feature": feature,
        "rule": rule.kind,
        "inputs": [int(i) for i in rule.inputs],
        "terms": [[names[i], weight] for i, weight in zip(rule.inputs, rule.weights, strict=True)],
        "centers": list(rule.centers),
        "means": list(rule.means),
        "threshold": float(tree.threshold[node]) + rule.offset,
        "standardized": {
            "weights": list(rule.standardized_weights),
            "centers": list(rule.standardized_centers),
            "threshold": float(tree.threshold[node]),
        },
    }


def _exact(fitted: FeatureTreeBase) -> dict[str, Any]:
    """What predictions are computed from, number for number."""
    features, inputs = fitted.map_, fitted.inputs_
    kinds = {LinearMap: "linear", PrototypeMap: "prototype"}
    if type(features) not in kinds:
        raise DataError(
            f"Got features of type {type(features).__name__}, but a file can only hold linear and prototype features. "
            "Pickle the estimator instead."
        )
    classes = getattr(fitted, "classes_", None)
    return {
        "inputs": {field.name: getattr(inputs, field.name).tolist() for field in fields(Inputs)},
        "map": {"kind": kinds[type(features)], "parameters": [array.tolist() for array in features.parameters]},
        "tree": {field.name: _numbers(getattr(fitted.tree_, field.name)) for field in fields(Tree)},
        "classes_dtype": None if classes is None else classes.dtype.str,
        "named": hasattr(fitted, "feature_names_in_"),
        "one_output": fitted.one_output_,
    }


def _numbers(array: Any) -> Any:
    """Lists, with None for NaN, which JSON does not know."""
    return [None if value != value else value for value in array.tolist()] if array.ndim == 1 else array.tolist()


def tree_from_dict(fitted: FeatureTreeBase, told: Mapping[str, Any]) -> None:
    """Give a new estimator what :func:`tree_to_dict` told of another.

    Raises
    ------
    DataError
        If it is no such thing, incomplete, of a later version, or of the other task.
    """
    if not isinstance(told, Mapping) or told.get("format") != FORMAT:
        raise DataError("Got no exported tree, but expected what export_dict() returned.")
    if told.get("version", VERSION) > VERSION:
        raise DataError(f"Got a tree of format {told['version']}, but this featlearn reads up to {VERSION}. Update it.")
    task = "classification" if hasattr(fitted, "predict_proba") else "regression"
    if told.get("task", task) != task:
        raise DataError(f"Got a tree for {told['task']}, but {type(fitted).__name__} is for {task}. Use the other one.")
    try:
        _restore(fitted, told)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"Got an exported tree that is not whole ({type(error).__name__}: {error}), but expected all that "
            "export_dict() returned."
        ) from error


def _restore(fitted: FeatureTreeBase, told: Mapping[str, Any]) -> None:
    exact = told["exact"]
    columns = exact["inputs"]
    inputs = Inputs(**{field.name: np.array(columns[field.name]) for field in fields(Inputs)})
    width = int(inputs.kept.sum())  # of no rows, too, which lists do not tell
    parameters = tuple(np.array(part, np.float64).reshape(-1, width) for part in exact["map"]["parameters"])
    features: FeatureMap = {"linear": LinearMap, "prototype": PrototypeMap}[exact["map"]["kind"]](*parameters)
    template = {field.name: exact["tree"][field.name] for field in fields(Tree)}
    kinds = {"children_left": np.int32, "children_right": np.int32, "feature": np.int32}
    arrays: dict[str, Any] = {name: np.array(values, kinds.get(name, np.float64)) for name, values in template.items()}
    tree = Tree(**arrays)
    classes = None if told["classes"] is None else np.array(told["classes"], dtype=exact["classes_dtype"])
    fitted.n_features_in_ = len(inputs.mean)
    if exact["named"]:
        fitted.feature_names_in_ = np.array(told["features"], dtype=object)
    fitted.selection_ = told["selection"]
    fitted.fuzzy_bandwidth_ = told["bandwidth"]
    fitted.one_output_ = exact["one_output"]
    fitted.output_names_ = tuple(told["outputs"])
    fitted._store_tree(inputs, features, tree, classes)


def tree_to_text(
    told: Mapping[str, Any], *, units: str = "original", decimals: int = 3, max_terms: int | None = 6
) -> str:
    """Nested rules: see :meth:`FeatureTreeClassifier.export_text`."""
    if units not in UNITS:
        raise DataError(f"Got units={units!r}, but expected one of {', '.join(map(repr, UNITS))}.")
    check_count("decimals", decimals, 1)
    if max_terms is not None:
        check_count("max_terms", max_terms, 1, other="None for all or ")
    lines: list[str] = []

    def write(place: int, indent: str) -> None:
        node = told["nodes"][place]
        rows = f"   (n = {number_text(node['n'], 6)})"
        if node["left"] is None:
            lines.append(f"{indent}{_leaf(told, node, decimals)}{rows}")
            return
        lines.append(f"{indent}if {rule_text(node, units, decimals, max_terms)}:{rows}")
        write(node["right"], indent + "    ")
        lines.append(f"{indent}else:")
        write(node["left"], indent + "    ")

    write(0, "")
    if told["predict_mode"] == "fuzzy" and told["nodes"][0]["left"] is not None:
        lines.append("(soft: near a threshold a row counts on both sides)")
    return "\n".join(lines)


def rule_text(node: Mapping[str, Any], units: str = "original", decimals: int = 3, max_terms: int | None = 6) -> str:
    """The condition under which a row goes right.

    Features have standard deviation 1, and digits are told down to the same place of it: more of them for an input far
    from 0, such as a year, without which the rule would say something else.
    """
    names, weights = [name for name, _ in node["terms"]], [weight for _, weight in node["terms"]]
    centers, means, threshold = node["centers"], node["means"], node["threshold"]
    if units == "standardized":
        weights, centers, threshold = (node["standardized"][key] for key in ("weights", "centers", "threshold"))
        means = [0.0] * len(weights)
    bound = number_text(threshold, decimals, threshold)
    if node["rule"] == "other":
        return f"feature_{node['feature']} > {bound}"
    shown = len(weights) if max_terms is None else min(max_terms, len(weights))
    if node["rule"] == "prototype":
        parts = [
            f"{number_text(w * w, decimals)}*({name} {'+' if p < 0 else '-'} {number_text(abs(p), decimals, w * p)})^2"
            for name, w, p in zip(names[:shown], weights[:shown], centers[:shown], strict=True)
        ]
        text, compare, bound = " + ".join(parts), "<", number_text(-threshold, decimals)
    elif len(weights) == 1:
        return f"{names[0]} {'>' if weights[0] > 0 else '<'} {number_text(threshold / weights[0], decimals, threshold)}"
    else:
        parts = [
            f"{number_text(abs(w), decimals, w * mean)}*{name}"
            for name, w, mean in zip(names[:shown], weights[:shown], means[:shown], strict=True)
        ]
        signs = ["-" if w < 0 else "+" for w in weights[:shown]]
        text = ("-" if signs[0] == "-" else "") + parts[0]
        text += "".join(f" {sign} {part}" for sign, part in zip(signs[1:], parts[1:], strict=True))
        compare = ">"
    hidden = len(weights) - shown
    text += f" + {hidden} smaller term{'s' if hidden > 1 else ''}" if hidden else ""
    return f"{text} {compare} {bound}"


def number_text(value: float, digits: int, size: float = 0.0) -> str:
    """So many significant digits, one more for every power of ten in ``size``, and all before the point up to 1e7."""
    if 1 < abs(size) < math.inf:
        digits += math.floor(math.log10(abs(size)))
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e7 else text


def _leaf(told: Mapping[str, Any], node: Mapping[str, Any], decimals: int) -> str:
    values = node["value"]
    if told["task"] == "regression":
        largest = np.abs([other["value"] for other in told["nodes"]]).max(axis=0)
        numbers = [
            number_text(0.0 if abs(value) < ROUNDING * most else value, decimals)
            for value, most in zip(values, largest, strict=True)
        ]
        names = [f"{name} = " if len(values) > 1 else "" for name in told["outputs"]]
        return "value: " + ", ".join(f"{name}{number}" for name, number in zip(names, numbers, strict=True))
    order = sorted(range(len(values)), key=lambda k: -values[k])
    shown = [k for k in order[:SHARES] if values[k] > 0]
    # The names of classes are often numbers, too: not to be taken for shares.
    text = ", ".join(f"{told['outputs'][k]} ({100 * values[k]:.{decimals}g}%)" for k in shown)
    rest = sum(values[k] for k in order[len(shown) :])
    return f"class: {text}" + (f", others ({100 * rest:.{decimals}g}%)" if rest > 0 else "")
