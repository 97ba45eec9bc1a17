r"""
How much a classifier will rely on a spurious column, before it is trained
==========================================================================

Gaussian rows: five core columns, a spurious one that goes with the label in a share :math:`\rho` of rows, fifty of
noise. The population solution of logistic regression is a convex problem in two numbers, so that its reliance on the
spurious column, and its accuracy where that column lies, are known before any training. Derived here, and checked by
quadrature.

The last-layer method is published (arXiv 2204.02937); formulas and numbers are this library's own.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from featlearn import DFRClassifier
from featlearn.datasets import make_spurious_tabular

BLUE, ORANGE, GREY, INK = "#0072b2", "#b25000", "#6b7280", "#1f2933"
SHARES, SEEDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98), 3

# %%
# Formula and fits
# ----------------
# Logistic regression without a penalty on 4000 rows, and deep feature reweighting on 1200 other rows in which all
# groups are equal; three draws each. Accuracies of the fitted rules on the two groups in which the spurious column
# lies are computed in closed form as well: no test rows are needed.

rows = []
for share in SHARES:
    for seed in range(SEEDS):
        data = make_spurious_tabular(correlation=share, random_state=seed)
        held = data.validation
        erm = LogisticRegression(C=np.inf, max_iter=1000).fit(data.train.X, data.train.y)
        dfr = DFRClassifier(random_state=seed).fit(held.X, held.y, (held.y, held.s))
        rules = {"ERM": (erm.coef_[0], erm.intercept_), "DFR": (dfr.raw_coef_[0], dfr.raw_intercept_)}
        for name, (weights, bias) in rules.items():
            core = weights @ data.exact.core_direction
            accuracy = data.exact.linear_group_accuracy(weights, bias)[[1, 2]].mean()  # (y, s) = (0, 1) and (1, 0)
            rows.append(
                {"rule": name, "share": share, "reliance": weights[data.exact.n_core] / core, "minority": accuracy}
            )
fits = pd.DataFrame(rows)

exact = data.exact
grid = np.linspace(0.5, 0.99, 60)
theory = [exact.population_logistic(share) for share in grid]
curves = {"reliance": [rule.ratio for rule in theory], "minority": [rule.minority for rule in theory]}

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for ax, name in zip(axes, curves, strict=True):
    ax.plot(grid, curves[name], color=INK, label="logistic regression, formula")
    for (rule, part), color, marker in zip(fits.groupby("rule"), (ORANGE, BLUE), "x.", strict=True):
        ax.plot(part["share"], part[name], marker, color=color, markersize=8, label=f"{rule}, fitted")
    ax.set_xlabel("share of training rows that the spurious column agrees with")
axes[0].set_ylabel("weight on the spurious column / on the core")
axes[1].plot(
    grid, [exact.bayes_group_accuracy(share)["minority"] for share in grid], "--", color=GREY, label="Bayes rule"
)
axes[1].axhline(exact.bayes_group_accuracy(0.5)["minority"], color=GREY, linewidth=0.8)
axes[1].set_ylabel("accuracy where the spurious column lies")
axes[0].legend(frameon=False)
axes[1].legend(frameon=False)

# %%
# The dots lie on the curve: what ERM will do to the minority can be said beforehand. The rule that is best *on
# average* (dashed) treats the minority no better. Reweighting stays close to what the core columns allow, the thin
# line, whatever the share in training was: it saw group labels of other rows, which ERM did not.

fits.groupby(["share", "rule"])[["reliance", "minority"]].mean().unstack().round(3)

# %%

plt.show()
