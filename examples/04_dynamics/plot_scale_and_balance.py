r"""
Scale and balance of a ReLU network
===================================

Two numbers of the start decide how a two-layer network learns: its *scale*, and the *balance* of its layers. For a real
ReLU network there is no formula that says what they do, so this page trains one from each point of a grid, on the data
of a small teacher, and measures what moved.

.. math::
    f(x) = \sum_i a_i \, \mathrm{relu}(w_i \cdot x), \qquad |a_i| |w_i| = \tau^2, \qquad a_i^2 - |w_i|^2 = \delta

What is whose: the setup and its measures are those of Kunin et al., "Get rich quick" (arXiv 2406.06158), read in the
authors' code, and much smaller here: 20 inputs, 200 samples, 20 neurons, 6000 steps, where theirs has 100, 1000, 50 and
a million. That upstream starts (:math:`\delta > 0`, the first layer is the fast one) can learn features rapidly is
their finding. All numbers on this page are measured here.
"""

import matplotlib.pyplot as plt
import numpy as np

from featlearn.dynamics.regime_grid import regime_grid
from featlearn.plots.single_neuron import balance_colors

grid = regime_grid(tau=(0.1, 0.3, 1.0, 2.0), delta=(-1.0, -0.3, 0.0, 0.3, 1.0), n_repeats=2, random_state=0)

# %%
# The map
# -------
# Each cell is the mean of two draws of data, teacher and student. At the top the start is large: the kernel hardly
# moves, few activations switch, all balances do the same, and the test loss is that of a fixed kernel. At the bottom
# the network learns features, and finds the teacher.

grid.plot()
plt.show()

# %%
# Along the lowest row, two measures of how far the network went contradict each other. Downstream (left) the weights
# travel far and switch few activations. Upstream (right) they hardly travel and switch nearly half of them: small first
# layers turn easily. Between 0 and 1/2 is what there is: a neuron with a new, random direction would switch on half of
# the samples.

last = grid.at()
for name in ("hamming", "parameter_distance"):
    print(f"{name:>20} at tau = 0.1:", "  ".join(f"{value:5.2f}" for value in last[name][0]))

# %%
# Over time
# ---------
# The same at the smallest scale, step by step; thick lines are the means of two draws, thin ones the draws. Far
# upstream most activations switch in the very first step: these first layers have weights of length 0.01, shorter than
# a step. Downstream and balanced, nothing happens for some ten steps; then weights, activations and kernel move
# together, as the loss falls. A step is lr / tau^2, so that balanced starts learn at about the same speed at any scale.

colors = balance_colors(grid.delta)
titles = {
    "train": "training loss",
    "hamming": "share of switched activations",
    "kernel_distance": "distance of the kernel",
    "parameter_distance": "distance of the weights",
}
figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
for ax, (name, title) in zip(axes, titles.items(), strict=True):
    for color, delta, runs in zip(colors, grid.delta, getattr(grid, name)[0], strict=True):
        ax.plot(grid.steps, runs.T, color=color, linewidth=0.6, alpha=0.6)
        ax.plot(grid.steps, runs.mean(axis=0), color=color, label=f"{delta:g}")
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlabel("step")
    ax.set_title(title, fontsize=10)
axes[0].set_yscale("log")
axes[0].legend(title="delta", fontsize=8, title_fontsize=8, frameon=False)
plt.show()

# %%
# How good is "gradient flow"?
# ----------------------------
# Flow conserves the balance of every neuron; finite steps do not quite. The drift says how far from flow the runs are:
# worst at small scale and upstream, where the first layer is fastest.

grid.plot(measures=["balance_drift"])
plt.show()
print(f"Largest drift {np.max(last['balance_drift']):.2g}, where balances differ by up to 2")
