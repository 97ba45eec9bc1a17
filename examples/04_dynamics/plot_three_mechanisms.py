r"""
Turning or growing? Three mechanisms of feature learning
========================================================

The smallest network that can learn features has two linear layers and one input: :math:`f(x) = g \sum_i u_i w_i x`.
Its output can grow because the two layers turn towards each other, because their norms grow, or, in a lazy network, by
changes too small to see in either. Xu and Ziyin (arXiv 2401.07085) solve this model exactly and describe alignment,
disalignment and rescaling; of their paper, this page quotes the abstract only. The solution below is derived here and
checked against simulation, and the three words are used as this library defines them.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from featlearn.dynamics.hyperbola import Hyperbola
from featlearn.dynamics.linear_net_1d import LinearNet1D
from featlearn.dynamics.solvable import agreement
from featlearn.plots.dynamics import plot_hyperbola, plot_linear_net, plot_mechanism_plane

rng = np.random.default_rng(5)
nets = {
    "NTK scaling": LinearNet1D.sample(1000, "ntk", random_state=1),
    "mean-field scaling": LinearNet1D.sample(1000, "mean_field", random_state=1),
    "small weights": LinearNet1D(*0.05 * rng.normal(size=(2, 10))),
    "far above its target": LinearNet1D(*rng.uniform(0.8, 2.2, (2, 4)), Exy=0.1),
}

# %%
# One hyperbola
# -------------
# Gradient flow of the squared loss moves the output F and the kernel :math:`\Theta`, the squared gradient of F with the
# rates of the layers in it, on one curve, :math:`\Theta^2 - \omega^2 F^2 = \kappa^2`. Where it is flat, the kernel
# stays while the output learns: lazy. Where it is steep, kernel and output grow together: rich. In units of
# :math:`\kappa` it is the same curve for every width, rate and initialisation, and only where one starts (dot) and ends
# (star) differs.

figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
scales = [Hyperbola(F0=0.0, Theta0=scale, omega=2.0, F_inf=1.0) for scale in (6.0, 2.0, 0.6, 0.02)]
plot_hyperbola(scales, axes[0], labels=["large weights", "", "", "small weights"])
axes[0].set_title("one target, four sizes of the initial weights", fontsize=10)
chosen = {name: net.hyperbola for name, net in nets.items() if name in ("NTK scaling", "mean-field scaling")}
chosen["far above its target"] = nets["far above its target"].hyperbola
plot_hyperbola(chosen.values(), axes[1], labels=list(chosen), normalize=True)
axes[1].set_title("three of the networks, in units of kappa", fontsize=10)
plt.show()

# %%
# Turning and growing add up
# --------------------------
# With :math:`\cos = u \cdot w / (|u||w|)`, the growth of the output splits exactly,
#
# .. math:: \log |F_t / F_0| = \Delta \log |\cos| + \Delta \log (|u||w|).
#
# Alignment means here that the score :math:`S = \log\{(\cos_t^2 + 3/d) / (\cos_0^2 + 3/d)\}` is above log 2,
# disalignment that it is below -log 2, and rescaling that the norms changed by more than a quarter. The term 3/d keeps
# what random layers do by chance from being counted.

table = pd.concat({name: net.mechanisms().frame() for name, net in nets.items()}).droplevel(1)
table["sum"] = table["D_cos"] + table["D_norm"]
table["log of F / F_0"] = [float(np.log(np.abs(net.F(np.inf) / net.F(0.0)))[0]) for net in nets.values()]
print(table[["cos0", "cos", "D_cos", "D_norm", "sum", "log of F / F_0", "score", "labels"]].round(3).to_string())

# %%
# The lazy network's D_cos and score tell why a floor is needed: its layers turn from one random angle to another, and
# nearly all change of the output comes from that, but both angles are no larger than chance. Wide mean-field networks
# turn to 45 degrees and grow by :math:`\sqrt 2`; small weights align completely; the network that starts far above its
# target shrinks and becomes more orthogonal.

times = np.concatenate([[0.0], np.geomspace(1e-3, 60.0, 300)])
plot_mechanism_plane([net.closed_form(times).to_dict() for net in nets.values()], labels=list(nets))
plt.show()

# %%
# Theory as lines, simulation as dots
# -----------------------------------
# The closed form against an integration of the raw equations for every weight, which uses none of its formulas; and
# against a torch network under gradient descent, whose error is proportional to its step.

net = nets["small weights"]
start, end = 0.0, 8.0
lines, dots = np.linspace(start, end, 200), np.linspace(start, end, 13)
plot_linear_net(net.closed_form(lines).to_dict(), net.simulate(dots).to_dict())
plt.show()

for name, model in nets.items():
    print(f"{name}: closed form and integration differ by {float(model.verify()):.1e}")
small = LinearNet1D([0.3, -0.2, 0.5], [0.1, 0.4, 0.2])
for lr in (0.04, 0.02, 0.01):
    trained = small.simulate(np.linspace(0.0, 4.0, 11), method="network", lr=lr)
    error = float(agreement(small.closed_form(trained.t), trained, tolerance=lr))
    print(f"a torch network, step {lr}: {error:.4f}")

# %%
# What never changes
# ------------------
# For every neuron :math:`u_i^2/\eta_u - w_i^2/\eta_w` stays what it was at the start, whatever is learned. Here is the
# largest change along the integration, relative to the largest square.

for name, model in nets.items():
    path = model.simulate(np.linspace(0.0, model.hyperbola.horizon(), 30))
    balance = model.conserved(path)["balance"]
    print(f"{name}: {np.ptp(balance, axis=-1).max() / np.abs(path.u**2 / model.eta_u).max():.1e}")
