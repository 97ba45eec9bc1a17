r"""
Features that fade again
========================

In a wide two-layer network with a fast first layer and a slow second one, the hidden weights first turn towards the
direction that the target depends on. Then the second layer moves, and can undo it. This page asks when, how fast, and
what the size of the second layer has to do with it.

The model has two numbers: the alignment :math:`R` of the neurons with the teacher's direction, and the size :math:`a`
of the second layer. Student and teacher are given by their Hermite coefficients :math:`\sigma_k` and :math:`\tau_k`.

**What is whose.** That there is a fast and a slow time scale, that the flow on a *critical manifold* decides about
unlearning, and that a larger second layer mitigates it, is published (Imai, Nishiyama and Imaizumi, arXiv 2602.07378,
abstract). The equations here are the natural system with these properties, derived for this library and checked against
their own integration; they were not read in the paper.
"""

import matplotlib.pyplot as plt
import numpy as np

from featlearn.dynamics.fast_slow import FastSlow

BLUE, ORANGE, INK = "#0072b2", "#b25000", "#1f2933"

# %%
# A feature learned and lost
# --------------------------
# Student and teacher agree in their first coefficient and disagree in the sign of the second. The alignment jumps to
# the manifold within a few units of time; there the second layer grows for ever, and the alignment, which has to keep
# :math:`a R` at the teacher's linear part, goes to zero.

opposed = FastSlow(sigma=[1.0, 0.5], tau=[1.0, -0.5])
law = opposed.law()
print(f"verdict: {opposed.verdict().outcome}; a grows like t^{float(law.exponent):.3f}")
path = opposed.simulate([0, 5, 100, 1e4, 1e6])
for t, R, a in zip(path.t, path.R, path.a, strict=True):
    print(f"t = {t:9g}   R = {R:.4f}   a = {a:8.3f}")
opposed.plot()
plt.show()

# %%
# Which teachers are kept
# -----------------------
# With two coefficients the alignment ends at :math:`\tau_2 \sigma_1 / (\sigma_2 \tau_1)`, clipped to between 0 and 1:
# the teacher's second coefficient decides between learning, partial learning and unlearning. The line is the verdict in
# the limit of a fast alignment, the dots are the equations at ``eps = 0.01``, integrated to :math:`t = 10^6`.

fine, coarse = np.linspace(-0.5, 1.0, 151), np.linspace(-0.5, 1.0, 13)
verdict = FastSlow([1.0, 0.5], np.stack([np.ones_like(fine), fine], axis=1)).verdict()
ends = [float(FastSlow([1.0, 0.5], [1.0, second]).simulate(1e6).R[0]) for second in coarse]

figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
ax.plot(fine, verdict.R, color=BLUE, label="verdict")
ax.plot(coarse, ends, "o", color=BLUE, mfc="white", label="integrated, eps = 0.01")
for low, high, name in ((-0.5, 0.0, "unlearn"), (0.0, 0.5, "partial"), (0.5, 1.0, "learn")):
    ax.text((low + high) / 2, 1.08, name, ha="center", color=INK)
for border in (0.0, 0.5):
    ax.axvline(border, color="#c9d1da", linewidth=1, zorder=0)
ax.set_ylim(-0.05, 1.18)
ax.set_xlabel("second coefficient of the teacher")
ax.set_ylabel("alignment in the end")
ax.legend(fontsize=8, frameon=False, loc="center right")
plt.show()

# %%
# A larger second layer: a remedy
# -------------------------------
# From a larger second layer, the opposed teacher is forgotten later, as the abstract has it: mitigation. In this model
# it is a delay, not a rescue, and it is bought with less alignment at the best of times.

times = np.geomspace(0.1, 1e6, 4000)
figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
for a0, color in ((1.0, "#4f5bd5"), (2.0, "#c2418f"), (4.0, "#d06c12")):
    R = FastSlow([1.0, 0.5], [1.0, -0.5], a0=a0).simulate(times).R
    half = times[R.argmax() + np.flatnonzero(R[R.argmax() :] < R.max() / 2)[0]]
    print(f"a0 = {a0:g}: best alignment {R.max():.2f}, halved at t = {half:.0f}")
    ax.semilogx(times, R, color=color, label=f"second layer starts at {a0:g}")
ax.set_xlabel("time")
ax.set_ylabel("alignment R")
ax.legend(fontsize=8, frameon=False)
plt.show()

# %%
# And a poison
# ------------
# With three coefficients the flow can be bistable: whether the feature is learned or lost depends on where the second
# layer starts, and it is the *larger* one that loses. The border is an equilibrium on the manifold.

bistable = FastSlow([1.0, 0.5, 0.5], [1.0, -0.1, 0.8], R0=0.02)
border = float(bistable.separatrix(10.5, 11.5))
print(f"border: a0 = {border:.6f}, with the finite eps: {float(bistable.separatrix(10.5, 11.5, method='ode')):.6f}")

# The flight from the equilibrium is short: it gets times of its own.
times = np.unique([0, *np.geomspace(1e-4, 1e9, 600), *np.linspace(3.5e6, 4.5e6, 4000)])
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
R = np.geomspace(0.01, 1.0, 400)
axes[0].loglog(R, bistable.manifold.A(R), color="#c9d1da", linewidth=4, label="manifold", zorder=0)
for a0, color in ((10.5, BLUE), (11.5, ORANGE)):
    model = FastSlow([1.0, 0.5, 0.5], [1.0, -0.1, 0.8], R0=0.02, a0=a0)
    path = model.simulate(times)
    axes[0].loglog(path.R, path.a, color=color)
    axes[0].loglog(path.R[0], path.a[0], "o", color=color)
    axes[1].loglog(path.t[1:], path.R[1:], color=color, label=f"a0 = {a0}: {model.verdict().outcome}")
equilibrium = float(bistable.manifold.equilibria[0])
axes[0].plot(equilibrium, bistable.manifold.A(equilibrium), "s", color=INK, label="unstable equilibrium")
axes[0].set_xlabel("alignment R")
axes[0].set_ylabel("second layer a")
axes[1].set_xlabel("time")
axes[1].set_ylabel("alignment R")
for ax in axes:
    ax.legend(fontsize=8, frameon=False)
plt.show()

# %%
# A jump
# ------
# Where the manifold folds back, the alignment loses its footing: it has drifted for a long time, and then moves to the
# next branch at once. A run like this looks finished long before it is.

folded = FastSlow([1.0, 0.2, 0.2], [0.2, -0.2, 1.0])
for R, a in folded.fate().corners:
    print(f"corner at R = {R:.3f}, a = {a:.3f}")
folded.plot(np.append(0.0, np.geomspace(0.1, 1e5, 200)))
plt.show()

# %%
# Networks of finite width
# ------------------------
# The two equations are the limit of many neurons. Gradient flow of all weights of :math:`N` neurons in 128 dimensions,
# with the exact population loss, comes to the same as :math:`1/N`.

times = np.linspace(0, 200, 81)
model = FastSlow([1.0, 0.5], [1.0, -0.5], eps=0.05)
limit = model.simulate(times).R
figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
ax.plot(times, limit, color=INK, label="infinite width")
for n_neurons, color in ((8, "#4f5bd5"), (32, "#c2418f"), (64, "#d06c12")):
    R = model.simulate(times, method="network", n_neurons=n_neurons, dim=128).R
    print(f"N = {n_neurons:3d}: largest distance {np.abs(R - limit).max():.4f}")
    ax.plot(times[::4], R[::4], "o", color=color, markersize=4, label=f"{n_neurons} neurons")
ax.set_xlabel("time")
ax.set_ylabel("mean alignment R")
ax.legend(fontsize=8, frameon=False)
plt.show()

# %%
# What was found
# --------------
# - **The second coefficients decide.** Where student and teacher disagree in their sign, alignment of .59 fades like
#   :math:`t^{-1/3}`, and slower, :math:`t^{-1/(p+1)}`, where the first common coefficient is the p-th.
# - **A larger second layer delays** unlearning here (factor 4 in time for a factor 2 in size), and can also be its
#   cause: quote the two together.
# - **The verdict is exact in the limit** of a fast alignment. At ``eps = 0.01`` the border between learning and
#   unlearning moves by 4e-6; after a fold the delay is of order ``eps^(2/3)``.
