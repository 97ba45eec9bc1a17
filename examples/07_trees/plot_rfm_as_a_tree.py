r"""
A kernel machine, told as a tree
================================

A recursive feature machine (RFM) predicts well and is one big sum over all training rows. What it learned is in its
average gradient outer product (AGOP): the directions of the input along which its predictions change. A small tree
that starts from these directions turns them into rules, with thresholds and numbers of rows.

The target is flat except for two steps, one across a sum of inputs and one across a difference, so that there are
rules to be found; whether a tree is a fair picture of a machine is a question, and the last figure looks at it. The
RFM is published (Radhakrishnan and others, Science 383, 2024); the tree and all numbers are this library's own.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from featlearn import FeatureTreeRegressor, RFMRegressor
from featlearn.trees.starts import directions_from_agop

COLORS = ("#0072b2", "#b25000", "#009e73", "#6b7280")

random = np.random.default_rng(0)
X = pd.DataFrame(
    random.normal(size=(1600, 10)),
    columns=["sun", "rain", "heat", "frost", "wind", "snow", "clay", "sand", "slope", "depth"],
)
y = 20.0 * (X["sun"] + X["rain"] > 0) + 10.0 * (X["heat"] - X["frost"] > 0.5) + 2 * random.normal(size=1600)
train, test = slice(0, 600), slice(600, None)

# %%
# What the machine learned
# ------------------------
# One kernel, columns standardised. Sun and rain stand out, with equal signs (red); heat and frost are fainter, for
# their step is half as high, and of opposite signs (blue). The six others are next to nothing.

options = {"kernel": "laplace", "metric": "full", "selection": None, "max_iter": 3}
machine = RFMRegressor(**options, random_state=0).fit(X[train], y[train])
agop = np.asarray(machine.agop_)
figure, ax = plt.subplots(figsize=(4.8, 4), layout="constrained")
limit = np.abs(agop).max()
image = ax.imshow(agop, cmap="RdBu_r", vmin=-limit, vmax=limit)
ax.set(xticks=range(10), yticks=range(10), yticklabels=X.columns)
ax.set_xticklabels(X.columns, rotation=60)
figure.colorbar(image)
plt.show()

# %%
# Its two leading directions. Eigenvectors mix what is equally strong; ``directions_from_agop`` turns them inside of
# their plane until few inputs are large in each (varimax).

pd.DataFrame(directions_from_agop(agop, 2), columns=X.columns).round(2)

# %%
# The tree on them
# ----------------
# The directions enter as a function, called on the training rows alone: in cross-validation they never see held-out
# rows. The machine saw standardised columns, and ``scale`` says so. The first tree takes them as they are
# (``max_iter=0``); the second learns on from there, and makes them sparse.


def directions(X, y):
    machine = RFMRegressor(**options, random_state=0).fit(X, y)
    return directions_from_agop(machine.agop_, 2, scale=X.std(axis=0))


common = {"init_directions": directions, "n_init": 0, "max_depth": 3, "random_state": 0}
given = FeatureTreeRegressor(**common, max_iter=0).fit(X[train], y[train])
tree = FeatureTreeRegressor(**common).fit(X[train], y[train])
print(given.export_text(max_terms=3))
figure = tree.plot()

# %%
# The text is of the directions as they are: each rule has all ten inputs. In the picture, of the tree that learned on,
# the four that act are left, two in a rule, and the values of the leaves are the sums of the two steps, up to noise.
#
# Is the tree a fair picture?
# ---------------------------
# On new rows: how well each predicts the target, and what the tree says beside what the machine says.

scores = {
    "machine": machine.score(X[test], y[test]),
    "tree on its directions": given.score(X[test], y[test]),
    "tree that learned on": tree.score(X[test], y[test]),
    "the same from its own start": FeatureTreeRegressor(n_init=0, max_depth=3, random_state=0)
    .fit(X[train], y[train])
    .score(X[test], y[test]),
}
pd.Series(scores, name="R2").round(3).to_frame()

# %%
# By default a tree starts from the AGOP of one kernel fit of its own, which is one step of the machine's; here that is
# enough. Directions of a machine are of use where it was tuned with care, or where it is the machine that is to be
# told.

figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
predicted, leaf = machine.predict(X[test]), tree.predict(X[test])
for value, color in zip(np.unique(leaf), COLORS, strict=False):
    rows = predicted[leaf == value]
    ax.hist(rows, bins=np.arange(-6, 39, 1.5), color=color, alpha=0.7, label=f"leaf of {value:.1f}")
ax.set(xlabel="prediction of the machine", ylabel="rows")
ax.legend(frameon=False, title="prediction of the tree")
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# In each leaf the machine's predictions gather around the value of the leaf, and smear towards its neighbours: a
# smooth machine goes up a slope where the target has a step. Here the rules are closer to the truth than the machine.
# Where a target has no steps it is the other way round, and a tree tells only where the machine changes most.
