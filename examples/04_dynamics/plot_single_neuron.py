r"""
One neuron, three ways to learn
===============================

The smallest network with two layers is one linear neuron, :math:`f(x) = a \, w \cdot x`. It can fit a target in two
ways: turn w, or change a. Which of them happens is decided before training starts, by the balance of the layers,
:math:`\delta = a^2 - |w|^2`, which gradient flow conserves. ``SingleNeuron`` solves it exactly, at any scale and any
balance.

What is whose: the model, the conserved balance and the names *upstream*, *balanced* and *downstream* are those of
Kunin et al., "Get rich quick" (arXiv 2406.06158). The formula that this page evaluates was derived for this library and
checked against integration, not copied from the paper. Every dot below is such an integration of the raw weights.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from featlearn.dynamics.implicit_bias import implicit_bias
from featlearn.dynamics.single_neuron import SingleNeuron
from featlearn.plots.single_neuron import balance_colors

DELTAS = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])


def starts(delta, output, direction):
    """Layers of balance delta with ``a |w| = output``."""
    total = np.hypot(delta, 2 * output)
    large = np.sqrt((total + np.abs(delta)) / 2)
    a, w = np.where(delta >= 0, large, output / large), np.where(delta >= 0, output / large, large)
    return a, w[..., None] * np.asarray(direction)


# %%
# The same function, five balances
# --------------------------------
# All five start from the same :math:`\beta = a w`, of length 0.05 and 75 degrees away from the target. Left: the path
# of :math:`\beta`. Middle: the kernel over the output; each moves on its own hyperbola
# :math:`\Theta = \sqrt{\delta^2 + 4 \beta^2}`, flat (lazy) at the bottom, steep (rich) outside. Right: the two layers.

direction = [np.cos(np.radians(75)), np.sin(np.radians(75))]
neurons = SingleNeuron(*starts(DELTAS, 0.05, direction), target=[1.0, 0.0])
neurons.plot()
plt.show()

# %%
# **Upstream** (blue) :math:`\beta` goes almost straight to the target. The first layer is the small one, and a large a
# makes it fast: w turns and grows, a hardly changes, and the kernel stays what it was. **Downstream** (orange) the
# second layer is fast. First a grows and stretches :math:`\beta` along the direction that w happens to have; when that
# direction fits no more, what is left is a slow turn, on a circle through the target. **Balanced** (dark) it turns
# first, and has grown only when the turn is almost over. In this linear model the upstream path is the lazy one: that
# upstream starts can learn features *fast* is published for nonlinear networks.

t = np.geomspace(1e-2, neurons.horizon(), 400)
path = neurons.closed_form(t)
angle = np.degrees(np.arctan2(path.w[:, 1], path.w[:, 0]))
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
quantities = {"angle between w and the target, degrees": angle, "loss": path.loss}
quantities["distance of the kernel from its start"] = neurons.kernel_distance(t)
for ax, (title, values) in zip(axes, quantities.items(), strict=True):
    for color, delta, curve in zip(balance_colors(DELTAS), DELTAS, values, strict=True):
        ax.plot(t, curve, color=color, label=f"{delta:g}")
    ax.set_xscale("log")
    ax.set_xlabel("time")
    ax.set_title(title, fontsize=10)
axes[0].legend(title="delta", fontsize=8, title_fontsize=8, frameon=False)
plt.show()

table = pd.DataFrame(
    {
        "regime": neurons.regime,
        "half of the loss gone": [t[np.argmax(loss < neurons.closed_form(0).loss[0, 0] / 2)] for loss in path.loss],
        "99.9 % gone": [t[np.argmax(loss < 1e-3 * neurons.closed_form(0).loss[0, 0])] for loss in path.loss],
        "kernel distance at the end": neurons.kernel_distance(np.inf)[:, 0],
    }
)
print(table.set_index(pd.Index(DELTAS, name="delta")).round(4).to_string())

# %%
# Which sign does it choose?
# --------------------------
# :math:`a w` and :math:`(-a)(-w)` are the same function, so there are two ends, and a saddle between them. The formula
# knows which one is reached: the sign of a in the end is that of
# :math:`a_0 (\sqrt{\delta^2 + 4 |b|^2} + \delta) + 2 \, w_0 \cdot b`. Below, a map of that sign over the first layer,
# for :math:`a_0 = 0.4`; the line is ``basin_boundary``. Upstream, inside the dotted circle :math:`|w| < a_0`, a never
# changes its sign. Crosses and dots are the signs that integration ends with.

a0, target = 0.4, np.array([1.0, 0.0])
grid = np.linspace(-1.4, 1.4, 201)
w = np.stack(np.meshgrid(grid, grid), axis=-1)
basins = SingleNeuron(a0, w, target)
few = np.random.default_rng(0).uniform(-1.35, 1.35, (60, 2))
signs = np.sign(SingleNeuron(a0, few, target).simulate([60.0]).a[:, 0])
figure, ax = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
ax.pcolormesh(grid, grid, basins.sign, cmap="coolwarm", alpha=0.35, rasterized=True)
ax.contour(grid, grid, w @ target - basins.basin_boundary(), levels=[0], colors="#1f2933", linewidths=1.5)
ax.add_patch(plt.Circle((0, 0), a0, fill=False, linestyle=":", color="#1f2933"))
for sign, marker in ((1, "o"), (-1, "x")):
    ax.plot(
        *few[signs == sign].T,
        marker,
        color="#1f2933",
        markersize=5,
        label=f"a ends {'positive' if sign > 0 else 'negative'}",
    )
ax.set(xlabel="w along the target", ylabel="w across it", aspect="equal")
ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
plt.show()
predicted = SingleNeuron(a0, few, target).sign
print(f"{(predicted == signs).sum()} of {len(signs)} signs as predicted, {(signs < 0).sum()} of them negative")

# %%
# Fewer data than features
# ------------------------
# With two data points in four dimensions there are many solutions, and the start decides which one is found.
# ``implicit_bias`` says which, for inputs of any spectrum. As the initial output shrinks, upstream and balanced starts
# end at the solution of least norm, downstream ones do not: the part of w that the data never see is large there, and
# stays (published; sizes derived here).

X, y = np.array([[1.0, 0.5, 0.0, 0.2], [0.0, 1.5, 0.3, -0.4]]), np.array([0.8, -0.5])
outputs = np.geomspace(1e-5, 1.0, 30)
direction = np.random.default_rng(0).normal(size=4)
a, w = starts(DELTAS[:, None], outputs, direction / np.linalg.norm(direction))
ends = implicit_bias(a, w, X, y)
figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
for color, delta, curve in zip(balance_colors(DELTAS), DELTAS, ends.excess_norm, strict=True):
    ax.loglog(outputs, curve, color=color, label=f"{delta:g}")
ax.set(xlabel="initial output |beta|", ylabel="distance from the least norm, relative")
ax.legend(title="delta", fontsize=8, title_fontsize=8, frameon=False)
plt.show()
rules, counts = np.unique(ends.sign_rule, return_counts=True)
print(f"How the {ends.a.size} signs were found: {dict(zip(rules.tolist(), counts.tolist(), strict=True))}")
some = implicit_bias(a[:, ::10], w[:, ::10], X, y).verify()
print(f"Worst distance of {ends.a[:, ::10].size} of these ends from integrated ones: {some.worst:.0e}")
