r"""
From lazy to rich by one number
===============================

A two-layer linear network :math:`f(x) = W_2 W_1 x` learns the features of its target one after the other, or all at
once. If its layers are *balanced*, :math:`W_2^\top W_2 - W_1 W_1^\top = \lambda I`, one number decides which, and whole
matrices can be followed exactly, for any numbers of inputs, hidden units and outputs. ``LambdaBalanced`` does that.

What is whose: the model, and that small :math:`\lambda` is rich and large :math:`|\lambda|` is lazy, are of Domine et
al., "From lazy to rich" (arXiv 2409.14623; read were its abstract and public reviews). The formula evaluated here was
derived for this library and checked against integration, and so were the powers and the controls below. Dots are
integrations of the raw layers.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from featlearn.dynamics.integration import integrate
from featlearn.dynamics.lambda_balanced import LambdaBalanced
from featlearn.plots.dynamics import plot_hyperbola

BLUE, ORANGE, INK = "#0072b2", "#b25000", "#1f2933"
FEATURES = np.array([2.0, 1.2, 0.6, 0.0])

rng = np.random.default_rng(0)
U, V, R = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(3))
target = (U * FEATURES) @ V.T

# %%
# A sweep of lambda
# -----------------
# The same random numbers for all five, a target with three features. At :math:`\lambda = 0` each feature waits, and is
# learned along a sigmoid when its turn comes. Far from it all rise at once. The sign of :math:`\lambda` says which
# layer is the large one; in a square network both signs do the same.

sweep = LambdaBalanced.sample(4, 4, 4, [-4.0, -1.0, 0.0, 1.0, 4.0], scale=0.02, Syx=target, random_state=0)
sweep.plot()
plt.show()
print(f"Closed form and integration differ by {sweep.verify().worst:.0e} at most")

# %%
# Each feature on its own hyperbola
# ---------------------------------
# If the layers start aligned with the target, the features do not see each other, and each moves on the hyperbola
# :math:`\Theta = \sqrt{\lambda^2 + 4 F^2}` of output F and kernel :math:`\Theta`. Flat is lazy, steep is rich.

small = np.array([0.2, 0.1, 0.05, 0.02])
aligned = {}
for lam in (0.0, 1.0, 4.0):
    aligned[lam] = LambdaBalanced((R * small) @ V.T, (U * np.sqrt(small**2 + lam)) @ R.T, target)

figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.0), layout="constrained")
first = [model.modes().to_dict() for model in aligned.values()]
strongest = [
    {name: np.ravel(value)[0] for name, value in modes.items() if name not in ("kind", "schema")} for modes in first
]
plot_hyperbola(strongest, axes[0], labels=[f"lambda = {lam:g}" for lam in aligned])
axes[0].set_title("the strongest feature", fontsize=10)
t = np.linspace(0.0, 6.0, 300)
for model, color in zip(aligned.values(), (BLUE, ORANGE, INK), strict=True):
    for curve in model.modes().F(t)[:3]:
        axes[1].plot(t, curve, color=color)
axes[1].set_xlabel("time")
axes[1].set_title("all three features", fontsize=10)
plt.show()

# %%
# How far does the kernel move?
# -----------------------------
# Less and less, as :math:`\lambda^{-4}` in the end. But a large :math:`\lambda` also means large weights, and large
# weights alone can make a network lazy. The control: random layers of the same norm, without balance. They are *not*
# lazy, whatever their norm, because they start with a large output that they have to unlearn (open dots). Given targets
# that leave them as much to learn as the balanced ones have, they are lazy as well, by their norm alone, but at
# :math:`\lambda` of 7 and more one to three orders of magnitude less so (filled dots).


def distance(layers, goal):
    """Of the tangent kernel from the start to the end of the integrated flow."""

    def flow(pair):
        missing = goal - pair[1] @ pair[0]
        return np.stack([pair[1].T @ missing, missing @ pair[0].T])

    end = integrate(flow, np.stack(layers), np.array([60.0]), method="LSODA")[..., 0]
    first, last = (np.kron(np.eye(4), W1.T @ W1) + np.kron(W2 @ W2.T, np.eye(4)) for W1, W2 in (layers, end))
    return 1 - (first * last).sum() / (np.linalg.norm(first) * np.linalg.norm(last))


lams = np.geomspace(0.1, 100, 40)
balanced = LambdaBalanced.sample(4, 4, 4, lams, scale=0.02, Syx=target, random_state=0)
figure, ax = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
ax.loglog(lams, balanced.kernel_distance(np.inf)[:, 0], color=INK, label="balanced, closed form")
rows = []
for i in range(0, 40, 6):
    norm = np.sqrt(((balanced.W1[i] ** 2).sum() + (balanced.W2[i] ** 2).sum()) / 2)
    for seed in range(3):
        layers = [norm * W / np.linalg.norm(W) for W in np.random.default_rng(seed).normal(size=(2, 4, 4))]
        as_drawn, as_much = distance(layers, target), distance(layers, target + layers[1] @ layers[0])
        rows.append({"lambda": lams[i], "random": as_drawn, "random, as much to learn": as_much})
random = pd.DataFrame(rows)
ax.plot(random["lambda"], random["random"], "o", color=ORANGE, markerfacecolor="white", label="random, same norm")
ax.plot(random["lambda"], random["random, as much to learn"], "o", color=ORANGE, label="the same with as much to learn")
ax.set(xlabel="lambda", ylabel="kernel distance at the end")
ax.legend(fontsize=8, frameon=False)
plt.show()
table = random.groupby("lambda").median()
table.insert(0, "balanced", balanced.kernel_distance(np.inf)[::6, 0])
print(table.to_string(float_format="{:.1e}".format))

# %%
# Lazy is not forever
# -------------------
# With fewer hidden units than features something has to be left out. At :math:`\lambda = 30` the two hidden units of
# this network first fit, within a time of :math:`1/\lambda`, what their initial directions can, at a constant kernel.
# Then they turn to the two largest features, and the kernel with them, in a time of order :math:`\lambda / s^2`.

narrow = LambdaBalanced.sample(4, 2, 4, [0.0, 3.0, 30.0], scale=0.02, Syx=target, random_state=0)
t = np.geomspace(1e-2, 3e3, 300)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for lam, loss, moved, color in zip(
    (0, 3, 30), narrow.closed_form(t).loss, narrow.kernel_distance(t), (INK, ORANGE, BLUE), strict=True
):
    axes[0].plot(t, loss, color=color, label=f"lambda = {lam}")
    axes[1].plot(t, moved, color=color)
axes[0].axhline(FEATURES[2] ** 2 / 2, color=INK, linestyle=":", linewidth=0.9)
axes[0].set_title("loss, and the least that two units allow (dotted)", fontsize=10)
axes[1].set_title("distance of the kernel from its start", fontsize=10)
axes[0].legend(fontsize=8, frameon=False)
for ax in axes:
    ax.set_xscale("log")
    ax.set_xlabel("time")
plt.show()

# %%
# What it costs
# -------------

start = time.perf_counter()
large = LambdaBalanced.sample(60, 20, 40, [0.0, 0.5, 2.0], random_state=0)
large.closed_form(np.linspace(0.0, 20.0, 100))
print(f"Three networks 60-20-40 at 100 times: {time.perf_counter() - start:.2f} s")
