r"""
Neurons that are functions
==========================

If the inputs of a network are curves, so are its neurons: the score of a neuron w on an input x is their inner product
:math:`\langle w, x \rangle = \int w(s) \, x(s) \, ds`. ``FunctionalMeanField`` is a layer of infinitely many such
neurons, :math:`f(x) = E_{w \sim \mu} \tanh \langle w, x \rangle`, whose distribution :math:`\mu` is what is learned:

.. math::
    \min_\mu \; \frac{1}{n} \sum_i \tfrac12 (f(x_i) - y_i)^2 + T \, \mathrm{KL}(\mu \,|\, \nu)

with a Gaussian prior :math:`\nu` of smooth curves. The problem is convex, and although curves have infinitely many
coefficients, its optimum sees a neuron only through its n scores. So it can be computed to any precision.

What is whose: that neurons in a Hilbert space can be learned globally by particle methods is published (Nishikawa,
Suzuki and Nitanda, NeurIPS 2022; only the abstract was read). The reduction to n dimensions, both solvers and both
particle methods of this page were derived for this library and checked; they are not the algorithms of that paper.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from featlearn.dynamics.functional_mean_field import FunctionalMeanField

# %%
# Where in the curve is the signal?
# ---------------------------------
# Thirty curves, random sums of cosines. The target is told by their values around s = 0.3, and by nothing else. Nobody
# tells the network: its prior treats all places alike, and only prefers smooth neurons.

rng = np.random.default_rng(0)
s = np.linspace(0.0, 1.0, 201)
k = np.arange(100)
basis = np.where(k[:, None] == 0, 1.0, np.sqrt(2.0)) * np.cos(np.pi * k[:, None] * s)
window = np.exp(-((s - 0.3) ** 2) / (2 * 0.08**2))
window /= window.mean()


def sample(n):
    """Coefficients of n curves, and their targets."""
    X = rng.normal(size=(n, len(k))) / (1 + (k / 4) ** 2)
    return X, 0.8 * np.tanh(X @ basis @ window / len(s))


(X, y), (X_new, y_new) = sample(30), sample(100)
prior = 2.5 / (1 + (k / 4) ** 4)
model = FunctionalMeanField(X, y, prior, temperature=0.01)
optimum = model.theory(random_state=0)
print(f"{model.rank} dimensions instead of {len(k)}; objective {optimum.objective:.5f}, gap {optimum.gap:.0e}")
print(
    f"f known to {optimum.integration_error:.0e}; {optimum.effective_points:.0f} of {len(optimum.points)} points count"
)
unexplained = np.mean((optimum.predict(X_new) - y_new) ** 2) / np.var(y_new)
print(f"{unexplained:.1%} of the variance of new curves' targets is left unexplained")

figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
axes[0].plot(s, (X @ basis).T, linewidth=0.7, color="#0072b2", alpha=0.5)
axes[0].set(title="inputs", xlabel="s")
mean = optimum.mean_neuron @ basis
axes[1].plot(s, mean, color="#1f2933", label="mean neuron")
axes[1].plot(
    s, window * mean.max() / window.max(), color="#b25000", linestyle="--", label="where the signal is, scaled"
)
axes[1].set(title="what was learned", xlabel="s")
axes[1].legend(fontsize=8, frameon=False)
plt.show()

# %%
# The mean of the neurons has found the place. Single neurons are still far from it: the price of the divergence from
# the prior keeps them random wherever the data say nothing. Middle: outputs shrink towards the prior's, which are zero;
# open dots are the average of 200 particles under noisy gradient descent, which knows nothing of the reduction.

run = model.simulate(n_particles=200, random_state=0)
optimum.plot(basis, at=s, run=run)
plt.show()
print(f"Particles are off by {np.abs(run.f - optimum.f).max():.3f} at most")

# %%
# The temperature decides how much is learned
# -------------------------------------------
# Hot networks are their prior; cold ones follow the data.

rows = []
for temperature in (1.0, 0.3, 0.1, 0.03, 0.01):
    found = FunctionalMeanField(X, y, prior, temperature=temperature).theory(random_state=0)
    off = np.mean((found.predict(X_new) - y_new) ** 2) / np.var(y_new)
    neuron = found.mean_neuron @ basis
    cosine = neuron @ window / np.linalg.norm(neuron) / np.linalg.norm(window)
    rows.append([temperature, found.kl, 2 * found.loss / np.var(y), off, cosine])
columns = ["T", "divergence from prior", "unexplained", "unexplained, new curves", "cosine of mean neuron and window"]
print(pd.DataFrame(rows, columns=columns).round(3).to_string(index=False))

# %%
# Any number of coefficients
# --------------------------
# Three inputs :math:`x_i(k) = \cos(ik)/k` with 5, 50 or 200 coefficients and :math:`C_k = k^{-2}`. The explicit step
# of Langevin dynamics would need to shrink with the smallest variance. Two that need not: *preconditioned* by the
# prior, for which it is exact; and *semi-implicit*, which makes the modes narrow that vary fast, where outputs do not
# look. Right: coordinate ascent on the dual never makes it worse, and certifies how far from the optimum it is.

figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
for M in (5, 50, 200):
    j = np.arange(1, M + 1)
    small = FunctionalMeanField(np.cos(np.outer([1, 2, 3], j)) / j, [0.5, -0.4, 0.2], prior=j**-2.0, temperature=0.02)
    runs = [
        small.simulate(random_state=0),
        small.simulate(step=0.5, n_steps=1500, method="semi_implicit", random_state=0),
    ]
    errors = [np.abs(run.f - small.optimum.f).max() for run in runs]
    print(f"M = {M:3}: preconditioned off by {errors[0]:.4f}, semi-implicit by {errors[1]:.4f}", end="; ")
    print(f"{runs[1].biased_modes} modes are too narrow")
for ax, run in zip(axes, runs, strict=False):
    for curve, goal, color in zip(run.trajectory.f, small.optimum.f, ("#0072b2", "#b25000", "#1f2933"), strict=True):
        ax.plot(run.trajectory.t, curve, color=color, linewidth=0.6, alpha=0.7)
        ax.axhline(goal, color=color, linestyle="--", linewidth=1.4)
    ax.set(title=f"outputs of 200 particles, {run.method.replace('_', '-')}", xlabel="time")
axes[2].semilogy(small.theory(solver="coordinate_ascent", tol=1e-4).gaps, color="#1f2933", label="coordinate ascent")
axes[2].semilogy(small.optimum.gaps[:-1], "o-", color="#0072b2", markersize=4, label="Newton")
axes[2].set(title="gap between primal and dual", xlabel="iteration", ylim=(1e-9, 1))
axes[2].legend(fontsize=8, frameon=False)
plt.show()
