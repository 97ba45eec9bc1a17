"""A fitted tree as a picture, as a function: what scikit-learn calls ``plot_tree``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .estimators import FeatureTreeBase

__all__ = ["plot_tree"]


def plot_tree(fitted: FeatureTreeBase, *, max_terms: int = 6, image_shape: tuple[int, ...] | None = None) -> Figure:
    """The tree as a picture: each rule a small chart of signed weights, or a map of pixels.

    Parameters
    ----------
    fitted : FeatureTreeClassifier or FeatureTreeRegressor
    max_terms : int, default=6
        Bars of a rule, the largest first.
    image_shape : (height, width), optional
        Inputs are pixels, row by row: rules are drawn as maps of their weights.

    Returns
    -------
    Figure
        The same as that of ``fitted.plot()``.

    Raises
    ------
    DataError
        For ``max_terms`` below 1, and for another number of pixels than of inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from featlearn.trees.estimators import FeatureTreeClassifier
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> tree = FeatureTreeClassifier(init_directions=np.eye(2), n_init=0, max_iter=0).fit(X, X[:, 1] > 0)
    >>> plot_tree(tree).axes[0].texts[-3].get_text()
    '2 leaves from 60 rows'
    """
    return fitted.plot(max_terms=max_terms, image_shape=image_shape)
