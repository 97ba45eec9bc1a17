"""What the two estimators have in common, told once: their docstrings."""

from __future__ import annotations

__all__ = ["described"]

TEXT = """
    Each rule compares a learned feature with a threshold: a sparse linear combination of inputs, or a distance to a
    prototype. Tree and features are learned in turn, so that a few rules do what axis-aligned ones need many for. Of
    all trees found that of lowest complexity is kept:

    .. math::

        J = \\frac1n \\sum_i \\omega_i |f(x_i) - y_i|^2 + \\sum_{v \\text{ split}} (\\alpha + \\ell_0 |w_{j(v)}|_0)

    with |TARGETS|.

    Parameters
    ----------
    features : {"linear", "prototype"} or FeatureMap, default="linear"
        What rules test: ``w . x``; minus the weighted squared distance to a prototype, from random starts alone, so
        that ``init_directions="kernel"`` says nothing; or features of a class of your own, of the shape of
        :class:`~featlearn.trees.features.FeatureMap`.
    init_directions : "kernel", None, array of shape (k, d) or callable, default="kernel"
        Where linear features start. "kernel": leading directions of the AGOP of one kernel ridge fit, as they are and
        turned to be sparse. Directions of your own act on X as it is; ``callable(X, y)`` gives them from the training
        rows alone, which is what cross-validation needs. None: random starts alone.
    n_features : int or "auto", default="auto"
        Features of a start. "auto": 4 (2 prototypes), or one a class up to 8, and never more than inputs.
    n_init : int or "auto", default="auto"
        Random starts besides; may be 0 if there are directions. "auto": 1, of prototypes 3, since one start with many
        prototypes often misses a simple answer.
    max_depth : int, default=4
        Most rules on a path.
    bandwidth : float, default=0.1
        Half-width of the transition at a threshold while features are learned, in standard deviations of a feature; at
        least 0.001, or 0 for features that stay as they start.
    penalty_scale : float, default=0.1
        kappa, in the two prices below. With 1, labels of pure noise give a single leaf; less is more accurate on real
        data.
    alpha, l0 : float or "auto", default="auto"
        Price of a split, ``0.002 + kappa 8 v ln(max(d, 2)) / n``, and of a non-zero weight of its rule,
        ``kappa 3 v / n``; v is the variance of the targets, n the sum of the weights.
    min_weight_leaf : float, default=5.0
        Least weight of a leaf, in rows.
    selection : {"penalty", "validation"}, default="penalty"
        "penalty": lowest J. "validation": kappa and the weights of a rule are chosen on a quarter of the rows, for the
        smallest tree within one standard error of the best, and a single leaf unless the best is clearly better.
    predict_mode : {"crisp", "fuzzy"}, default="crisp"
        "fuzzy": rows near a threshold go to both sides, at ``bandwidth``. Predictions are smoother, explanations less
        clean.
    max_iter : int, default=15
        Rounds of random starts after the first; 0: no feature is learned, and given directions get one crisp tree.
    random_state : int, RandomState or None
        Random starts, and draws of rows where there are very many. The same int gives the same tree, bit for bit.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    tree_ : Tree
        Arrays ``children_left``, ``children_right`` (-1 at leaves), ``feature`` (-2), ``threshold``, ``value``,
        ``n_node_weight``, ``gain`` and ``impurity``. Thresholds are those of :meth:`transform`; gain and impurity
        are of the squared errors in J|UNITS|.
    components_, components_standardized_ : array of shape (q, d)
        Weights of the features that some rule tests, per unit and per standard deviation of the inputs; the largest of
        a linear feature is positive.
    thresholds_ : array of shape (nodes,)
        In units of ``components_``: right if ``components_[j] @ x`` is above. NaN at leaves.
    prototypes_ : array of shape (q, d) or None
        In units of the inputs: right if ``-sum((components_[j] * (x - prototypes_[j])) ** 2)`` is above.
    feature_importances_ : array of shape (d,)
        Gains of the nodes, shared among inputs by the sizes of the standardised weights, as shares. A split that only
        prepares the next one, as in XOR, has no gain of its own.
    n_leaves_ : int
    n_weights_ : int array of shape (q,)
        Non-zero weights of each feature.
    loss_, objective_ : float
        Of the crisp tree on the training rows: the mean squared error in J, and J.
    alpha_, l0_, penalty_scale_ : float
        The prices used.
    selection_ : str
    guarded_ : bool
        Whether "validation" answered with a single leaf because no candidate was clearly better.
    interrupted_ : bool
        Whether Ctrl-C ended the search; the tree is the best one until then.
    history_ : list of dict
        Every tree that features were moved through: kappa, start, route, stage, s, round, h, loss, leaves.
    path_ : DataFrame
        Every candidate: kappa, s (weights that a rule could have), start, loss, objective, leaves, weights, held-out
        loss; ``candidates_`` are the trees themselves. See :meth:`path_frame`.
    n_iter_ : int
        Entries of ``history_``.
    |CLASSES|output_names_ : tuple of str
    n_features_in_, feature_names_in_ :
        As everywhere in scikit-learn.

    Notes
    -----
    Follows the published idea of learning sparse features and a differentiable tree in turn, not its authors'
    algorithm: starts, schedules, penalties and constants are this library's own. A row given twice is a row of weight
    two, and the order of rows does not matter, both to the last bit. Units of the inputs do not matter. Among
    correlated inputs many sparse rules are about equally good: a rule is one of them, not the causes.

    A start costs about ``1000 n d q`` operations and fifty crisp trees; the kernel one ``n^3 / 3`` more, for at most
    4000 rows. Features are learned on at most 20000 rows, the last tree is grown on all.

    References
    ----------
    Good, Kovach, Miller, Dubrawski (2023), Feature learning for interpretable, performant decision trees, NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from featlearn.trees.estimators import |NAME|
    >>> X = np.random.default_rng(0).standard_normal((200, 3))
    |EXAMPLE|
    """


def described(cls: type, **own: str) -> None:
    """Put what both estimators share below the first line of a class, with its own words in the places kept."""
    text = TEXT.replace("|NAME|", cls.__name__)
    for place, words in own.items():
        text = text.replace(f"|{place.upper()}|", words)
    cls.__doc__ = f"{cls.__doc__}\n{text}"
