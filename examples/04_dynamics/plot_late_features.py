"""
Features that weight decay makes late
=====================================

A network can fit without finding the directions of its teacher. With weight decay it finds them in the end, however
weak the decay, long after the loss is small.

The claim that gradient descent on a regularised objective captures the teacher's directions once the loss is below a
threshold is Zhou and Ge's (arXiv 2406.01766), of which this page knows the abstract. The model below, its optimum and
the certificate are derived here: neurons :math:`|w \\cdot x|` less their mean on Gaussian inputs, so that no sample is
drawn.
"""

import matplotlib.pyplot as plt
import numpy as np

from featlearn.dynamics.late_features import LateFeatures

teachers, scales = np.eye(6)[:3], [1.0, 0.8, 1.2]

# %%
# Fitting is not finding
# ----------------------
# Thirty neurons start large. Without decay they fit three teachers in six dimensions within a few thousand steps, at a
# mean angle of about 45 degrees to them. Then weight decay sets in: the loss rises, the angle falls, and the loss comes
# down to that of the optimum.

model = LateFeatures(teachers, scales, init_scale=1.5, lr=0.05, schedule=[(0.0, 6000), (1e-2, 9000)], random_state=0)
frame = model.frame()
print(frame[frame["step"].isin([6000, 15000])].round(6).to_string(index=False))
print(f"loss of the optimum: {model.theory().loss:.3g}")
model.plot()
plt.show()

# %%
# The optimum, and a certificate
# ------------------------------
# For orthogonal teachers the optimum is known: all mass :math:`|a| |w|` sits on their lines, each a little short of its
# scale. A new neuron of direction w would be worth adding only where the certificate r leaves the band of the decay,
# and a live one is worth its own decay only where r touches the band. In two dimensions r can be drawn over all
# directions: soon after the decay has set in, when no neuron is worth its decay, and at the end.

figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
stages = {"500 steps of decay after the fit": [(0.0, 3000), (1e-2, 500)], "20 000 steps": [(0.0, 3000), (1e-2, 20000)]}
for ax, (title, schedule) in zip(axes, stages.items(), strict=True):
    flat = LateFeatures(np.eye(2), [1.0, 0.8], init_scale=1.5, lr=0.05, schedule=schedule, random_state=0)
    flat.plot_certificate(ax)
    ax.set_title(title, fontsize=10)
plt.show()

# %%
# Weaker decay, the same features
# -------------------------------
# From a small start, with a decay that is lowered in stages: at the end of each, the loss is the same multiple of the
# square of the decay, as the optimum says.

model = LateFeatures(teachers, scales, random_state=0)
decays, ends = model.stages
found, best = model.simulate(ends), model.theory(decays)
print("decay          ", *(f"{decay:9.0e}" for decay in decays))
print("loss / decay^2 ", *(f"{value:9.4f}" for value in found.loss / decays**2), "  reached")
print("               ", *(f"{value:9.4f}" for value in best.loss / decays**2), "  optimum")
print("angle          ", *(f"{value:9.1e}" for value in found.angle))

figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
grid = np.geomspace(decays.min(), decays.max(), 100)
for k, color in enumerate(("#4f5bd5", "#c2418f", "#d06c12")):
    ax.plot(grid, model.theory(grid).mass[:, k], color=color)
    ax.text(decays.min(), scales[k] + 0.015, f"teacher {k + 1}", color=color, fontsize=9)
    ax.plot(decays, found.mass[k], "o", color=color, markersize=5)
ax.set(xscale="log", ylim=(0.65, 1.27), xlabel="weight decay", ylabel="mass on the teacher's line")
ax.set_title("optimum (lines) and end of each stage (dots)", fontsize=10)
plt.show()

# %%
# What is not claimed
# -------------------
# A small start aligns neurons early even without decay; the page is about the end of training. The optimum is known
# for orthogonal teachers only. That descent gets there from any start is not shown here, only that it did in these
# runs.
