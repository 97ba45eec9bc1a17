"""
Do neurons move, and do they group?
===================================

Two initial scales decide whether the first layer of a wide network moves at all, and from small weights its neurons
turn to a few common directions before they grow.

That there are three regimes (linear, critical, condensed) is published by Luo, Xu, Ma and Zhang (arXiv 2007.07497,
abstract); so is, in a sequel, the rule that at most 2 p orientations form early, with p the order of the first
derivative of the activation at 0 that is not 0. The lines between the regimes and the exponents are derived here.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from featlearn.dynamics.condensation import condensation
from featlearn.dynamics.phase_diagram import phase_diagram
from featlearn.dynamics.phase_slope import kernel_regime_of, phase_slope, regime_of

# %%
# The map
# -------
# Two layers with initial standard deviations :math:`b_1` (output) and :math:`b_2` (input) and a factor
# :math:`1/\alpha`: :math:`b_1 b_2 / \alpha` falls as width to the :math:`-\gamma`, :math:`b_1 / b_2` as width to the
# :math:`-\gamma'`. The colour is the exponent with which the relative change of the input weights grows.

phase_diagram("initialisation").plot()
plt.show()

# %%
# Measured
# --------
# ReLU networks of three widths, trained on four points until the loss is 1e-4. Every dot is a network.

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for ax, (gam, gamp) in zip(axes, ((0.5, 0.0), (1.0, 0.0), (1.5, 0.0)), strict=True):
    found = phase_slope(gam, gamp, (32, 96, 288), n_repeats=2, loss=1e-3, random_state=0)
    found.plot(ax)
    print(f"({gam}, {gamp}): slope {found.slope:+.2f}, predicted {found.predicted:+.2f}")
plt.show()

# %%
# Weights and kernel need not agree: between the two lines for :math:`\gamma' < 0` the input weights of a linear network
# move far and its kernel stays.

for gam, gamp in ((0.5, 0.0), (1.25, -0.5), (1.5, 0.0)):
    (weights,), (kernel,) = (rule([gam], [gamp])[0] for rule in (regime_of, kernel_regime_of))
    print(f"({gam}, {gamp}): weights {weights}, kernel of the linear network {kernel}")

# %%
# Neurons group
# -------------
# The published setup: 5-50-1, 80 points in :math:`[-4, 2]^5`, targets a sum of sines, all parameters of size .005,
# full-batch Adam, 100 epochs. Cosines of the input weights (with bias) of all pairs of neurons.


class XTanh(nn.Module):
    def forward(self, x):
        return x * torch.tanh(x)


def after_100_epochs(activation):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((80, 5), generator=generator) * 6 - 4
    y = (3.5 * torch.sin(5 * x + 1)).sum(dim=1, keepdim=True)
    net = nn.Sequential(nn.Linear(5, 50), activation, nn.Linear(50, 1))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.005 * torch.randn(parameter.shape, generator=generator))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    return condensation(torch.cat([net[0].weight, net[0].bias[:, None]], dim=1))


figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for ax, (name, activation) in zip(
    axes, {"tanh": nn.Tanh(), "x tanh x": XTanh(), "relu": nn.ReLU()}.items(), strict=True
):
    found = after_100_epochs(activation)
    found.plot(ax)
    ax.set_title(f"{name}: {ax.get_title()}", fontsize=10)
    print(f"{name}: {found.aligned_share:.0%} of the pairs aligned, in effect {found.effective_directions:.2f} lines")
plt.show()

# %%
# What was found
# --------------
# - The slopes at these small widths lie near their limits in the three regimes.
# - tanh (p = 1) groups on one line, as the rule says. With x tanh x (p = 2), and with ReLU, of which the rule does not
#   speak, grouping is not complete after 100 epochs: counts of orientations at a fixed tolerance then say little, and
#   the effective number of lines says more.
