r"""
How fast do features move?
==========================

One step of training changes the output :math:`f_l` of every layer by :math:`\delta f_l` and lowers the loss. With
:math:`b_l` the gradient of the loss by :math:`f_l`, the decay of the loss that passes through the layer is

.. math:: S_l = -\langle b_l, \delta f_l \rangle = \cos\theta_l \, \|b_l\| \, \|\delta f_l\| ,

so that features move by :math:`\|\delta f_l\| = S_l / (\|b_l\| \cos\theta_l)`: the smaller the cosine of the
*backward-feature angle* :math:`\theta_l`, the further they move for the same decay. That identity, in words, and two
orders of magnitude are published (Chizat and Netrapalli, arXiv 2311.18718): at random initialisation
:math:`\cos\theta_l` falls like :math:`1/\sqrt l` in ReLU networks, and stays of order one in residual networks whose
branches are scaled by :math:`1/\sqrt L`. The curves drawn dashed below, with their constants, are derived in this
project (:func:`~featlearn.agop.feature_speed.bfa_theory`), and so are the procedures of the second half that set
initial scales and learning rates.
"""

import copy
from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

from featlearn import feature_speed, feature_speed_groups, rescale_init
from featlearn.agop.feature_speed import bfa_theory

BLUE, ORANGE, GREEN, INK = "#0072b2", "#b25000", "#009e73", "#1f2933"


def mlp(width, depth, inputs=32):
    """ReLU network of ``depth`` linear layers without biases, all their outputs of order one."""
    sizes = [inputs, *[width] * (depth - 1), 1]
    parts = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out, bias=False)
        nn.init.normal_(linear.weight, std=((2 if parts else 1) / fan_in) ** 0.5)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Block(nn.Module):
    """``f + beta W relu(f)``."""

    def __init__(self, width, beta):
        super().__init__()
        self.branch, self.beta = nn.Linear(width, width, bias=False), beta
        nn.init.kaiming_normal_(self.branch.weight, nonlinearity="relu")

    def forward(self, f):
        return f + self.beta * self.branch(torch.relu(f))


def residual(width, blocks, s, inputs=32):
    """Blocks with ``beta = s / sqrt(blocks)`` between two linear layers."""
    first, last = nn.Linear(inputs, width, bias=False), nn.Linear(width, 1, bias=False)
    nn.init.normal_(first.weight, std=inputs**-0.5)
    return nn.Sequential(first, *[Block(width, s * blocks**-0.5) for _ in range(blocks)], last)


# %%
# The angle
# ---------
# One input, a wide random network, a step of gradient descent that moves all layers with the same rate. For the
# residual network only the branches move, as in the formula. ``layers=`` may name any module that returns one tensor,
# here the blocks.


def output_itself(outputs, _):
    return outputs.sum()


def cosines(net, x, layers="auto"):
    speed = feature_speed(net, output_itself, x, layers=layers, finite=False)
    return torch.tensor([layer.cos_theta for layer in speed.layers.values()])


torch.manual_seed(0)
width, depth, blocks, draws = 300, 12, 32, 4
# The formula's layers have as many inputs as outputs, so that one rate for all gives weights 1, 1/2, 1/2, ...
mlp_cosines = torch.stack([cosines(mlp(width, depth + 1, width), torch.randn(1, width)) for _ in range(draws)])
residual_cosines = {}
for s in (0.25, 1.0, 2.0):
    found = []
    for _ in range(draws):
        net = residual(width, blocks, s)
        net[0].requires_grad_(False)
        net[-1].requires_grad_(False)
        found.append(cosines(net, torch.randn(1, 32), [str(i) for i in range(1, blocks + 1)]))
    residual_cosines[s] = torch.stack(found)

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
axes[0].plot(range(1, depth + 1), mlp_cosines[:, :depth].mean(0), "o", color=BLUE, label="measured, mean of four")
axes[0].plot(range(1, depth + 1), bfa_theory("relu", depth), "--", color=INK, label="formula")
axes[0].set_title("ReLU network", fontsize=10)
axes[0].set_xlabel("layer")
axes[0].set_ylabel("cosine of the backward-feature angle")
for (s, found), color in zip(residual_cosines.items(), (GREEN, BLUE, ORANGE), strict=True):
    axes[1].plot(range(1, blocks + 1), found.mean(0), "o", markersize=4, color=color, label=f"s = {s:g}")
    axes[1].plot(range(1, blocks + 1), bfa_theory("resnet", blocks, beta=s * blocks**-0.5), "--", color=INK)
axes[1].set_title(r"residual network, L = 32 branches scaled by $s/\sqrt{L}$", fontsize=10)
axes[1].set_xlabel("block")
for ax in axes:
    ax.set_ylim(0, 1.05)
    ax.legend(fontsize=8, frameon=False, loc="lower left")
plt.show()

# %%
# A batch and a loss
# ------------------
# With a real loss and many inputs there is no closed form, and no need of one. The task has 32 inputs of which five
# matter, by their products. Both networks make one step of gradient descent with one rate for all layers.

generator = torch.Generator().manual_seed(0)
X = torch.randn(256, 32, generator=generator)
y = sum(X[:, j] * X[:, (j + 1) % 5] for j in range(5))[:, None]
y = y / y.std()


def half_mean_square(outputs, targets):
    return (outputs - targets).square().mean() / 2


torch.manual_seed(0)
plain, resnet = mlp(128, 10), residual(128, 8, s=1.0)
figure, axes = plt.subplots(2, 3, figsize=(10.5, 6.2), layout="constrained")
feature_speed(plain, half_mean_square, (X, y)).plot(axes[0])
feature_speed(resnet, half_mean_square, (X, y), layers=[str(i) for i in range(10)]).plot(axes[1])
for ax in axes.flat:
    ax.title.set_fontsize(9)
axes[0, 0].set_ylabel("ReLU network: ten linear layers")
axes[1, 0].set_ylabel("residual network: eight blocks\nbetween two linear layers")
plt.show()

# %%
# Equal contributions
# -------------------
# ``rescale_init`` gives hidden outputs the size 1 and the readout the scale at which the last features move by as much
# as the loss decays (sensitivity 1). ``feature_speed_groups`` then measures a rate for each layer, such that all
# contribute the same to the decay, no features move by more than a fifth in a step, and gradient descent is stable. Any
# optimiser step can be measured, so here is that of ``torch.optim.SGD`` with these groups:

net = copy.deepcopy(plain)
rescaled = rescale_init(net, half_mean_square, (X, y))
groups = feature_speed_groups(net, half_mean_square, (X, y))
after = feature_speed(net, half_mean_square, (X, y), update=torch.optim.SGD(groups))
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
after.plot(axes)
for ax in axes:
    ax.title.set_fontsize(9)
plt.show()

rates = pd.DataFrame({"factor of the weights": rescaled.factors, "rate": {g["name"]: g["lr"] for g in groups}})
shown = after.frame()[["feature_rms", "relative_change", "loss_decay_share", "sensitivity", "finite_ratio"]]
print(rates.join(shown).to_string(float_format="{:.3g}".format))

# %%
# One setting for all depths
# --------------------------
# Networks of 4, 10 and 20 layers, from the same rescaled start: measured rates at their default settings, beside one
# common rate for all layers.


def train(net, groups, steps=200):
    """Training loss after each step; ends where it diverges."""
    optimizer = torch.optim.SGD(groups, lr=0.0)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = half_mean_square(net(X), y)
        losses.append(loss.item())
        if not losses[-1] < 1e3:
            break
        loss.backward()
        optimizer.step()
    return losses


curves = {}
for depth in (4, 10, 20):
    torch.manual_seed(0)
    start = mlp(128, depth)
    rescale_init(start, half_mean_square, (X, y))
    net = copy.deepcopy(start)
    curves[depth, "measured"] = train(net, feature_speed_groups(net, half_mean_square, (X, y)))
    for rate in (0.1, 0.03, 0.01):
        net = copy.deepcopy(start)
        curves[depth, f"{rate:g} for all"] = train(net, [{"params": list(net.parameters()), "lr": rate}])

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.8), sharey=True, layout="constrained")
colors = {"measured": BLUE, "0.1 for all": ORANGE, "0.03 for all": GREEN, "0.01 for all": "#cc79a7"}
for ax, depth in zip(axes, (4, 10, 20), strict=True):
    for name, color in colors.items():
        losses = curves[depth, name]
        diverged = ", diverges" if len(losses) < 200 else ""
        ax.semilogy(losses, color=color, lw=2 if name == "measured" else 1.2, label=name + diverged)
    ax.set_title(f"{depth} layers", fontsize=10)
    ax.set_xlabel("step")
    ax.set_ylim(1e-5, 10)
    ax.legend(fontsize=8, frameon=False, loc="lower left")
axes[0].set_ylabel("training loss")
plt.show()

last = {key: sum(losses[-10:]) / 10 if len(losses) == 200 else float("nan") for key, losses in curves.items()}
table = pd.Series(last).unstack(level=0).loc[list(colors)]
print(table.to_string(float_format="{:.2g}".format))

# %%
# What the curvature has to say
# -----------------------------
# A rate of equal contribution is one over a squared gradient at the start. The readout's gradient is there the
# correlation of random features with the targets, which is small by chance, more or less so from draw to draw, and its
# rate may come out larger than the curvature of the loss allows. No first-order quantity sees that, so
# ``feature_speed_groups`` measures the sharpness too, and lowers all rates where gradient descent would not be stable.
# Ten starts of four layers, without that limit and with it:

rows = []
for draw in range(10):
    torch.manual_seed(draw)
    net = mlp(128, 4)
    rescale_init(net, half_mean_square, (X, y))
    row = {}
    for name, limit in (("first order", {"max_sharpness": None}), ("default", {})):
        trained = copy.deepcopy(net)
        groups = feature_speed_groups(trained, half_mean_square, (X, y), **limit)
        losses = train(trained, groups)
        row[f"{name}: first rate"] = groups[0]["lr"]
        row[f"{name}: readout's"] = groups[-1]["lr"]
        row[f"{name}: loss"] = losses[-1] if len(losses) == 200 else float("nan")
    rows.append(row)
print(pd.DataFrame(rows).to_string(float_format="{:.2g}".format))

# %%
# What was found
# --------------
# - **The angle follows the formulas**, for one input: its cosine falls from 1 to about .3 over the twelve layers of the
#   ReLU network, and to .98, .74 and .49 over 32 residual blocks with s = .25, 1 and 2 (formulas: .98, .79, .55).
# - **A batch lowers it, and the order remains.** With 256 inputs the first layer's cosine is already .37. In the ReLU
#   network it falls to .11, in the residual one it stays about .5.
# - **With one rate for all, layers contribute unequally.** In the residual network the readout makes 87% of the loss
#   decay, on features that hardly move. In the ReLU network the first layer and the last two contribute least.
# - **With measured rates every layer contributes a tenth**, and the last hidden features move by as much as the loss
#   decays. That is not the same as equal movement: relative to its size the first layer's output moves 40 times less
#   than the ninth's.
# - **One setting trained all three depths**, from 4 layers (two orders of magnitude below the best common rate) to 20.
#   It is not the best at each: a common rate of .1 diverges from 10 layers on, but .03 works everywhere, slowly at 4
#   layers, faster than the measured rates at 10 and about as fast at 20.
# - **The first order does not know what is stable.** Without the limit on the sharpness, training diverged from four
#   of ten starts with four layers. In those the readout's gradient was small by chance, so that its rate came out ten
#   times as large as elsewhere. With the limit all ten trained. Its price is that the rate of one layer lowers all of
#   them: a start whose loss reached 1e-6 without it may end at 5e-4.
