r"""
What a table depends on
=======================

A recursive feature machine is kernel ridge regression that learns its metric from its own gradients. What it has
learned can be read off: which columns, which combinations of them, and where on a column's axis.

The first part has a known answer. The second compares with other methods on data that comes with scikit-learn.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featlearn import RFMRegressor

BLUE, ORANGE, INK = "#0072b2", "#b25000", "#1f2933"

# %%
# A known answer
# --------------
# Ten columns. The target has a threshold in ``step`` at 0.5 and depends smoothly on ``a + b``; the others are noise.

random = np.random.default_rng(0)
names = ["step", "a", "b", *(f"noise {i}" for i in range(7))]
X = pd.DataFrame(random.normal(size=(700, 10)), columns=names)
y = 1.5 * (X["step"] > 0.5) + np.sin(X["a"] + X["b"]) + 0.1 * random.normal(size=700)

machine = RFMRegressor(random_state=0).fit(X[:500], y[:500])
plain = RFMRegressor(kernel="laplace", max_iter=0, random_state=0).fit(X[:500], y[:500])
print(f"test R2 {machine.score(X[500:], y[500:]):.3f}, without learning features {plain.score(X[500:], y[500:]):.3f}")
print(f"chosen: {machine.kernel_name_}, power {machine.power_}, iterate {machine.n_iter_}")

figure = machine.plot()

# %%
# The leading directions of the AGOP, in input columns: one along ``step``, one along ``a + b``.

print(pd.DataFrame(machine.directions_[:3], columns=names).round(2).to_string(index=False))

# %%
# Where on the axis
# -----------------
# A metric says how much a column matters. The *warp* says where: a monotone map of the column, steep where the
# predictor changes. For ``step`` the steepest piece lies at the threshold. (Warps are ours, not from a paper.)

warp = machine.predictor_.metrics[0].warp
if warp is not None:
    fig, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
    for name, color in (("step", BLUE), ("noise 0", ORANGE)):
        place = warp.columns.tolist().index(names.index(name))
        knots, slopes = warp.knots[place].numpy(), warp.slopes[place].numpy()
        ax.stairs(slopes, knots, color=color, lw=1.8, label=name)
    ax.set(xlabel="value of the column, as the machine encoded it", ylabel="slope of the warp")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)

# %%
# Against other methods
# ---------------------
# Diabetes, 442 rows of ten columns: five folds, everything with its defaults. The target is noisy and nearly linear in
# a few columns, so that there is little to gain. The differences lie within the error bars of the folds.

X, y = load_diabetes(return_X_y=True)
methods = {
    "RFM": RFMRegressor(random_state=0),
    "kernel ridge, Laplacian": make_pipeline(StandardScaler(), KernelRidge(kernel="laplacian")),
    "random forest": RandomForestRegressor(random_state=0),
    "gradient boosting": HistGradientBoostingRegressor(random_state=0),
}
folds = KFold(5, shuffle=True, random_state=0)
for name, method in methods.items():
    scores = cross_val_score(method, X, y - y.mean(), cv=folds)
    print(f"{name:25s} R2 {scores.mean():.3f} +- {scores.std(ddof=1) / 5**0.5:.3f}")

# sphinx_gallery_thumbnail_number = 1
