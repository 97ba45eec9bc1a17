"""One prediction, told rule by rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .export import ROUNDING
from .rules import rules_of
from .tree import share_right

if TYPE_CHECKING:
    import pandas as pd

    from .estimators import FeatureTreeBase

__all__ = ["Explanation", "Step", "explain"]


@dataclass(frozen=True)
class Step:
    """A node that the row passes.

    Attributes
    ----------
    node : int
        Its id in ``tree_``.
    feature : int
        Row of ``components_``.
    terms : tuple of (str, float)
        What every input adds to the feature, in standard deviations of the feature: the largest first. For linear
        rules ``w_i (x_i - mu_i) / sd_i``, for prototypes ``-m_i^2 (x_i - p_i)^2``; none for other features.
    z, threshold : float
        Feature and threshold of ``tree_``; their difference is ``margin``.
    right : bool
        Side that the row is on.
    share : float
        Weight with which it goes right: 0 or 1 in a crisp tree.
    reach : float
        Weight with which it arrives: 1 in a crisp tree.
    contribution : array of shape (K,)
        What the node changes in the prediction.
    """

    node: int
    feature: int
    terms: tuple[tuple[str, float], ...]
    z: float
    threshold: float
    right: bool
    share: float
    reach: float
    contribution: NDArray[np.float64]

    @property
    def margin(self) -> float:
        """Distance from the threshold, positive on the right, in standard deviations of the feature."""
        return self.z - self.threshold


@dataclass(frozen=True)
class Explanation:
    """Parts whose sum is the prediction: the value at the root, and a contribution of every node.

    Attributes
    ----------
    root : array of shape (K,)
        Mean of the training rows: shares of classes, or outputs.
    steps : tuple of Step
        From the root on: the nodes on the path; in a fuzzy tree all nodes with children.
    prediction : array of shape (K,)
        Shares of classes, or outputs.
    outputs : tuple of str
        Names of the K numbers.
    """

    root: NDArray[np.float64]
    steps: tuple[Step, ...]
    prediction: NDArray[np.float64]
    outputs: tuple[str, ...]

    def frame(self) -> pd.DataFrame:
        """A row for the root and every step: node, rule in short, margin, side, and the contribution to each output."""
        import pandas as pd

        rows: list[dict[str, Any]] = [{"node": 0, "rule": "all training rows"}]
        rows[0] |= dict(zip(self.outputs, self.root, strict=True))
        for step in self.steps:
            told = " ".join(f"{value:+.3g} ({name})" for name, value in step.terms[:3]) or f"feature {step.feature}"
            more = f" and {len(step.terms) - 3} more" if len(step.terms) > 3 else ""
            side = "right" if step.right else "left"
            rows.append(
                {"node": step.node, "rule": told + more, "margin": step.margin, "side": side, "reach": step.reach}
                | dict(zip(self.outputs, step.contribution, strict=True))
            )
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "outputs": list(self.outputs),
            "root": self.root.tolist(),
            "steps": [
                {
                    "node": step.node,
                    "feature": step.feature,
                    "terms": [[name, value] for name, value in step.terms],
                    "z": step.z,
                    "threshold": step.threshold,
                    "margin": step.margin,
                    "right": step.right,
                    "share": step.share,
                    "reach": step.reach,
                    "contribution": step.contribution.tolist(),
                }
                for step in self.steps
            ],
            "prediction": self.prediction.tolist(),
        }

    def __str__(self) -> str:
        lines = [f"{self._told(self.root)}   all training rows"]
        for step in self.steps:
            side = ">" if step.right else "<="
            terms = " ".join(f"{value:+.2f} ({name})" for name, value in step.terms[:6])
            if len(step.terms) > 6:
                terms += f" {sum(value for _, value in step.terms[6:]):+.2f} ({len(step.terms) - 6} smaller terms)"
            rule = f"{terms} = {step.z:.2f}" if terms else f"feature {step.feature} = {step.z:.2f}"
            weight = "" if step.reach == 1 else f" (with weight {step.reach:.2f})"
            lines.append(f"{self._told(step.contribution, sign=True)}   {rule} {side} {step.threshold:.2f}{weight}")
        lines.append(f"{self._told(self.prediction)}   prediction")
        return "\n".join(lines)

    def _told(self, values: NDArray[np.float64], *, sign: bool = False) -> str:
        """Numbers of all outputs, or of the three largest of many, to one place of the point in all lines."""
        shown = range(len(values)) if len(values) <= 3 else np.sort(np.argsort(-np.abs(self.prediction))[:3]).tolist()
        largest = np.abs([self.root, self.prediction, *(step.contribution for step in self.steps)]).max(axis=0)
        told = []
        for k in shown:
            power = math.floor(math.log10(largest[k])) if largest[k] > 0 else 0
            kind = f".{max(0, (3 if power >= 0 else 2) - power)}f" if -5 < power < 9 else ".3e"
            # What is only rounding is 0, without a sign of its own.
            value = 0.0 if abs(values[k]) < ROUNDING * largest[k] else values[k]
            told.append(f"{self.outputs[k]}: {value:{'+' if sign else ' '}{kind}}")
        return ", ".join(told)


def explain(fitted: FeatureTreeBase, x: NDArray[np.float64], outputs: tuple[str, ...]) -> Explanation:
    """The parts of the prediction for one row x (d,) that was checked."""
    tree, h = fitted.tree_, fitted.fuzzy_bandwidth_
    Z = fitted.map_.forward(fitted.inputs_.rows(x[None]))
    scaled = (x - fitted.inputs_.mean) / fitted.inputs_.scale
    reach = tree.reach(Z, h)[0]
    rules, names = rules_of(fitted.map_, fitted.inputs_), fitted.input_names_
    root, steps, total = tree.value[0], [], tree.value[0].copy()
    for node in tree.split_nodes:
        if reach[node] == 0:
            continue
        feature = int(tree.feature[node])
        z, threshold = float(Z[0, feature]), float(tree.threshold[node])
        share = float(share_right(Z[0, feature], threshold, h))
        left, right = tree.value[tree.children_left[node]], tree.value[tree.children_right[node]]
        contribution = reach[node] * ((1 - share) * left + share * right - tree.value[node])
        total = total + contribution
        rule = rules[feature]
        parts = zip((names[i] for i in rule.inputs), rule.parts(scaled), strict=True)
        terms = sorted(parts, key=lambda term: -abs(term[1]))
        steps.append(
            Step(node, feature, tuple(terms), z, threshold, z > threshold, share, float(reach[node]), contribution)
        )
    return Explanation(root, tuple(steps), total, outputs)
