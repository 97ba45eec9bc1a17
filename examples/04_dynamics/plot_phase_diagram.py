r"""
Which scales learn features? A phase diagram
============================================

Five knobs decide how a two-layer network of width d learns: the scale of its output, the rates of its two layers, and
the variances of their initial weights. Let each be a power of d. For the linear network on one-dimensional data the
outcome depends on two combinations of the five exponents only, so that one map holds every parametrisation.

That this model has a phase diagram, with feature learning in one phase only, is from the abstract of Xu and Ziyin
(arXiv 2401.07085); the form of the diagram, its boundaries and all numbers on this page are derived here and checked
against random networks.
"""

import matplotlib.pyplot as plt
import numpy as np

from featlearn.dynamics.hyperbola import Hyperbola
from featlearn.dynamics.linear_net_1d import LinearNet1D
from featlearn.dynamics.parametrisations import NAMED_PARAMETRISATIONS
from featlearn.dynamics.phase_diagram import phase_diagram
from featlearn.plots.dynamics import plot_hyperbola

# %%
# The map
# -------
# The colour is :math:`\rho`, by which factor, less one, the kernel grows until the target is fitted: blue where it
# stays (lazy), red where it grows by more than itself. On the solid line it grows by a factor of order 1 at every
# width; off the line, :math:`\rho` falls or rises as a power of the width. On the dashed line a step of order 1 trains
# in a time of order 1; to its right and above it such steps diverge, to its left and below it nothing moves.
#
# A parametrisation of one's own is one more point: here a mean-field network whose second layer learns more slowly.

diagram = phase_diagram(width=1000, mine={"g": -1.0, "eta_u": 0.4, "eta_w": 1.0})
diagram.plot()
plt.show()
columns = ["g", "eta_u", "eta_w", "var_u", "var_w", "eT", "eF", "e0", "phase", "speed", "Theta0", "rho"]
print(diagram.frame()[columns].round(6).T.to_string())

# %%
# Mean-field, maximal-update (mup) and Xavier scaling are one point: in this model they are the same network, seen
# through other variables. All lie where both lines cross, which is why they can be trained at any width with one rate
# and still learn features. Note the exponent ``e0`` of the initial output: whoever learns features starts with an
# output that vanishes with the width.
#
# Random networks obey it
# -----------------------
# A hundred random networks a width (dots, their median) against the formula (lines): the kernel's growth, and the
# largest step of gradient descent that is stable. The formula leaves out the initial output, which vanishes with the
# width for whoever learns features. In the lazy scalings it is as large as the target, and part of the way is already
# done: the tiny growth is smaller by a factor of about 2, at the same exponent.

widths = np.unique(np.geomspace(4, 20_000, 12).astype(int))
shown = {"ntk": "#0072b2", "mean_field": "#b25000", "kaiming": "#1f2933"}
figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.0), layout="constrained")
for name, color in shown.items():
    label = NAMED_PARAMETRISATIONS[name].label
    cores = [LinearNet1D.sample(int(width), name, random_state=0, draws=100).hyperbola for width in widths]
    scales = [NAMED_PARAMETRISATIONS[name].at(int(width)) for width in widths]
    kernel = np.array([s["g"] ** 2 * d * (s["eta_u"] * s["var_w"] + s["eta_w"] * s["var_u"])
                       for s, d in zip(scales, widths, strict=True)])  # fmt: skip
    omega = np.array([2 * s["g"] * np.sqrt(s["eta_u"] * s["eta_w"]) for s in scales])
    expected = Hyperbola(F0=0.0, Theta0=kernel, omega=omega, F_inf=1.0)
    for ax, theory, drawn in (
        (axes[0], expected.rho, [np.median(core.rho) for core in cores]),
        (axes[1], expected.max_stable_lr, [np.median(core.max_stable_lr) for core in cores]),
    ):
        ax.loglog(widths, theory, color=color, label=label)
        ax.loglog(widths, drawn, "o", color=color, markersize=4)
axes[0].set(xlabel="width", ylabel="rho", ylim=(1e-9, 3))
axes[1].set(xlabel="width", ylabel="largest stable step")
axes[1].legend(fontsize=8, frameon=False)
plt.show()

# %%
# From the map to a run
# ---------------------
# Each point of the map is a way along a hyperbola: the output F goes from near 0 to its target, and the kernel with it
# or not.

figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.0), layout="constrained")
cores = {name: LinearNet1D.sample(1000, name, random_state=4).hyperbola for name in ("ntk", "mean_field")}
plot_hyperbola(cores.values(), axes[0], labels=["ntk", "mean field"])
times = np.linspace(0.0, 2.5, 100)
for (name, core), color in zip(cores.items(), ("#0072b2", "#b25000"), strict=True):
    axes[1].plot(times, core.F(times), color=color, label=name.replace("_", " "))
    print(f"{name}: half of the target after {float(core.time_to(0.5)):.3f} units of time, kernel x "
          f"{1 + float(core.rho):.3f}")  # fmt: skip
axes[1].set(xlabel="time", ylabel="output F")
axes[1].legend(fontsize=8, frameon=False)
plt.show()
