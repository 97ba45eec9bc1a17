r"""
Does training carry to another width?
=====================================

Learning rates are tuned on a small network and used on a large one. That works if a step does the same to the features
of both. ``coordinate_check`` makes a few steps at every size and fits, layer by layer, the exponent :math:`\beta` of

.. math:: \mathrm{rms}(f_l) \propto \text{width}^\beta, \qquad \mathrm{rms}(f_l(t) - f_l(0)) \propto \text{width}^\beta

and that of the cosine of the backward-feature angle, with confidence intervals. Its verdict is a number's, not the
eye's: all flat within the tolerance, or something depends on width, or undecided.

The check of activation sizes over width comes from Yang et al. (arXiv 2203.03466), the angle from Chizat and Netrapalli
(arXiv 2311.18718), who show that in ReLU networks its cosine falls with depth like :math:`1/\sqrt l`. The verdict, the
entries of the scaling rules used below, and everything measured here are this project's.
"""

from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

from featlearn import coordinate_check, feature_speed_groups, rescale_init
from featlearn.training.theory import scaling_rule

BLUE, ORANGE, GREEN, INK = "#0072b2", "#b25000", "#009e73", "#1f2933"

# Five of 32 inputs matter, by their products.
generator = torch.Generator().manual_seed(0)
X = torch.randn(256, 32, generator=generator)
y = sum(X[:, j] * X[:, (j + 1) % 5] for j in range(5))[:, None]
y = y / y.std()


def half_mean_square(outputs, targets):
    return (outputs - targets).square().mean() / 2


def mlp(width, depth):
    """ReLU network of ``depth`` linear layers without biases, as torch initialises it."""
    parts = []
    for fan_in, fan_out in pairwise([32, *[width] * (depth - 1), 1]):
        parts += [nn.Linear(fan_in, fan_out, bias=False), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def by_rule(rule, width, depth):
    """The same network with the initial scales of a rule."""
    net = mlp(width, depth)
    for weight, layer in zip(net.parameters(), scaling_rule(rule, depth, width, 32).layers(), strict=True):
        nn.init.normal_(weight, std=layer.std)
    return net


def rates(rule, net, factor):
    """Gradient descent with the rates of the rule, times one factor."""
    weights = list(net.parameters())
    layers = scaling_rule(rule, len(weights), len(weights[0]), 32).layers()
    groups = [{"params": [weight], "lr": factor * layer.rate} for weight, layer in zip(weights, layers, strict=True)]
    return torch.optim.SGD(groups)


# %%
# PyTorch's default
# -----------------
# Four layers as torch initialises them, three steps of gradient descent with one rate for all layers and widths.

widths = (64, 128, 256, 512)
default = coordinate_check(
    lambda width: mlp(width, 4),
    widths,
    (X, y),
    half_mean_square,
    optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    seeds=5,
)
print(default.summary())
default.plot()
plt.show()

# %%
# A rule that transfers
# ---------------------
# ``scaling_rule`` has the initial scales and rates of three parametrisations of ReLU networks in closed form. With
# "mup" (maximal update) the readout starts small, like one over the width, and the rates of the layers before it do not
# shrink.

print(scaling_rule("mup", depth=4, width=256, inputs=32).frame().to_string(float_format="{:.3g}".format))

# %%

mup = coordinate_check(
    lambda width: by_rule("mup", width, 4),
    widths,
    (X, y),
    half_mean_square,
    optimizer=lambda net: rates("mup", net, 1.0),
    seeds=5,
)
print(mup.summary())
mup.plot()
plt.show()

slopes = pd.concat({"default": default.frame(), "mup": mup.frame()}, names=["network"])
hidden = slopes[slopes["judged"]][["slope", "low", "high", "verdict"]]
print(hidden.to_string(float_format="{:+.2f}".format))

# %%
# Over depth
# ----------
# With ``depths=`` in place of ``widths`` layers correspond by place. Judged is the last hidden layer; the angle is only
# shown: in plain ReLU networks it falls like one over the root of the layer's number under any rule. The closed form
# "fsc" (feature-speed corrected) makes up for that by a larger readout and smaller rates; ``rescale_init`` and
# ``feature_speed_groups`` measure on the batch itself what the closed forms assume, here at a predicted loss decay of a
# tenth a step.


def measured_start(depth):
    net = mlp(128, depth)
    rescale_init(net, half_mean_square, (X, y))
    return net


def measured_rates(net):
    return torch.optim.SGD(feature_speed_groups(net, half_mean_square, (X, y), budget=None, max_decay=0.1))


procedures = {
    "mup": (partial(by_rule, "mup", 128), partial(rates, "mup", factor=0.1)),
    "fsc": (partial(by_rule, "fsc", 128), partial(rates, "fsc", factor=0.1)),
    "measured": (measured_start, measured_rates),
}
over_depth = {
    name: coordinate_check(
        factory, depths=(4, 8, 16, 32), batch=(X, y), loss=half_mean_square, optimizer=optimizer, steps=2, seeds=4
    )
    for name, (factory, optimizer) in procedures.items()
}
figure, axes = plt.subplots(1, 3, figsize=(11, 4.6), sharey=True, layout="constrained")
for ax, (name, check) in zip(axes, over_depth.items(), strict=True):
    print(f"{name}: {check.summary().splitlines()[0]}")
    check.plot(ax)
    ax.set_title(f"{name}: change of features", fontsize=10)
plt.show()

# %%
# Does the learning rate transfer?
# --------------------------------
# What the check is a quick stand-in for: the training loss after 100 steps as a function of the rate, at three widths.


def loss_after(net, optimizer, steps=100):
    """Mean of the last ten losses; infinite where training diverges."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = half_mean_square(net(X), y)
        losses.append(loss.item())
        if not losses[-1] < 1e3:
            return float("inf")
        loss.backward()
        optimizer.step()
    return sum(losses[-10:]) / 10


factors = [2.0**k for k in range(-6, 5)]
found = {"default": {}, "mup": {}}
for width in (64, 128, 256):
    for factor in factors:
        torch.manual_seed(0)
        net = mlp(width, 4)
        found["default"][factor, width] = loss_after(net, torch.optim.SGD(net.parameters(), lr=factor))
        torch.manual_seed(0)
        net = by_rule("mup", width, 4)
        found["mup"][factor, width] = loss_after(net, rates("mup", net, factor))

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
for ax, (name, losses) in zip(axes, found.items(), strict=True):
    table = pd.Series(losses).unstack()
    print(name, table.idxmin().to_dict())
    for width, color in zip(table.columns, (GREEN, BLUE, ORANGE), strict=True):
        trained = table[width][table[width] < float("inf")]
        ax.loglog(trained.index, trained, "o-", color=color, markersize=4, label=f"width {width}", base=2)
        ax.plot(trained.idxmin(), trained.min(), "o", markersize=11, markerfacecolor="none", color=color)
    ax.set_title(f"{name}: best rates circled", fontsize=10)
    ax.set_xlabel("rate of all layers" if name == "default" else "common factor of the rule's rates")
    ax.legend(fontsize=8, frameon=False, loc="lower left")
axes[0].set_ylabel("training loss after 100 steps")
plt.show()

# %%
# In continuous integration
# -------------------------
# The same check runs from the command line, on a function that makes a model of a given width and one that makes its
# optimiser:
#
# .. code-block:: console
#
#    $ featlearn coordinate-check nets.py:mlp --optimizer nets.py:mup_sgd --widths 64,128,256,512 \
#        --input-shape 32 --loss mse --seeds 5 --plot check.png
#
# Its exit code is 0 if nothing that is judged depends on width, 6 if something does, and 7 if the intervals cannot tell
# (more seeds or a longer range of widths decide). So a change that breaks the scaling rule fails the build.
# ``--optimizer sgd:0.1`` gives one rate to all layers, and ``--json`` writes every number.
#
# What was found
# --------------
# - **PyTorch's default with one rate does not carry over width.** The first layer's features move less in wide networks
#   (exponent about -.5), those of the second and third layer more (about +.4). No single rate can mend both.
# - **"mup" carries over width**: all nine exponents lie within .05 of zero, with intervals inside the tolerance. Its
#   best factor stays within the grid's factor of two, and wider is better at each factor up to it. The default's best
#   rate has fallen by a factor of four at width 256, in this one draw; the medians over three draws, at widths up to
#   1,024, that ``benchmarks/README.md`` tells of fall by two. At fixed depth "fsc" is the same rule up to constants.
# - **Over depth none of the three passes.** Under "mup" and "fsc" the last features of this batch move further the
#   deeper the network (exponents around +.7, with wide intervals). The entries of the closed forms are derived for one
#   sample; here there are 256, which a deep ReLU network makes more and more alike. Measured rates and scales come
#   closer (about +.3): most of what remains is that the loss at the start, of which the predicted decay is a tenth,
#   grows with depth.
# - **What the check does not say.** A few steps say nothing of the end of training, and a flat exponent nothing of
#   whether the rate is any good.
