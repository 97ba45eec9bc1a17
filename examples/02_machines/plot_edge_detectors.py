r"""
Edge detectors without backpropagation
======================================

The first filters of a network trained on photographs are oriented edges. A convolutional recursive feature machine
(ConvRFM) never sees a backward pass: it is kernel ridge regression whose metric between patches is the average gradient
outer product (AGOP) of its own predictor (Beaglehole, Radhakrishnan, Pandit and Belkin, `arXiv:2309.00570
<https://arxiv.org/abs/2309.00570>`_). Does it look for the same?

"These look like edges" is no measurement. Here every direction gets its *edge energy*, the share of it that is an
oriented first derivative of any angle and colour, beside two nulls: a random direction, and patch PCA, which knows
nothing of labels.

The photographs, CIFAR-10 recompressed as JPEG, and three ResNets trained by others are read from the folder that
``FEATLEARN_DATA`` names; without it, the page uses 700 bundled images of clothes, and has no ResNets.
"""

import os

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

from featlearn import ConvRFMClassifier
from featlearn.datasets import load_cifar10_jpeg, load_cifar_resnet, load_fashion_mnist

here = bool(os.environ.get("FEATLEARN_DATA"))
load = load_cifar10_jpeg if here else load_fashion_mnist
train, test = load("train", n=700), load("test", n=1000)
X, X_test = train.images / 255, test.images / 255
print(train)

# %%
# What one step finds
# -------------------
# The patch AGOP of the fixed kernel's predictor is the metric after one step. How smooth that predictor is depends on
# the ridge, so here are several. Leave-one-out, honest as long as the metric has fewer numbers (378) than there are
# images, says which of them predicts best.

machines = {alpha: ConvRFMClassifier(alpha=alpha, max_iter=0, random_state=0).fit(X, train.labels)
            for alpha in (1e-4, 1e-3, 1e-2, 1e-1)}  # fmt: skip
rows = []
for alpha, fitted in machines.items():
    found = fitted.edge_report(top=3)
    edges = found.edge_energy["ConvRFM"]
    rows.append(
        {
            "ridge": alpha,
            "left-one-out error": fitted.selection_.best["score"],
            "test accuracy": fitted.score(X_test, test.labels),
            **{f"edge {place + 1}": energy for place, energy in enumerate(edges)},
            "error of the AGOP": fitted.patch_agop_se_,
        }
    )
print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))

# %%
# With a small ridge the two leading directions are edges. With the ridge that predicts best, the mean of a patch comes
# first, as in patch PCA, and edges follow. In what follows the ridge is 1e-3.

machine = machines[1e-3]

# %%
# A network beside it
# -------------------
# Three layers of 3 x 3 convolutions, as in the network whose infinitely wide limit the kernel is; trained on the same
# 700 images.


def trained_cnn(epochs=20, width=32):
    """A small CNN after Adam on cross-entropy."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(X.shape[1], width, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * (X.shape[2] - 6) * (X.shape[3] - 6), 10),
    )
    before = net[0].weight.detach().clone()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X[rows]), train.labels[rows]).backward()
            optimizer.step()
    moved = (net[0].weight.detach() - before).norm() / before.norm()
    print(f"the filters moved by {moved:.0%} of their size at the start")
    return net


def filter_covariance(weight):
    """``W^T W`` between patches."""
    rows = weight.detach().flatten(start_dim=1)
    return rows.mT @ rows


cnn = trained_cnn()
others = {"CNN": filter_covariance(cnn[0].weight)}
if here:
    for depth in (20, 32, 44):
        others[f"ResNet-{depth}"] = filter_covariance(load_cifar_resnet(f"resnet{depth}").conv1.weight)
print(f"test accuracy of the CNN: {(cnn(X_test).argmax(1) == test.labels).double().mean():.3f}")

# %%
# What they look for
# ------------------

report = machine.edge_report(others, top=6)
report.plot()
plt.show()

# %%
# In numbers: the three leading directions of each. (The ResNets were trained on standardised colours, and their filters
# are in those coordinates; the three standard deviations differ by 2%.)

frame = report.frame()
print(frame[frame["direction"] <= 3].to_string(index=False, float_format="{:.2f}".format))
print(f"a random direction: edge {report.chance_of_edge:.2f}, constant {report.chance_of_constant:.2f}")

# %%
# How similar are they?
# ---------------------
# The cosine of two matrices is high by chance when both are close to a multiple of the identity, so each stands beside
# its mean over random rotations; and the overlap of leading subspaces beside that of random ones.

pairs = [
    {"first": a, "second": b, **entry}
    for (a, b), entry in report.similarity.items()
    if "ConvRFM" in (a, b) or "patch PCA" in (a, b)
]
print(pd.DataFrame(pairs).to_string(index=False, float_format="{:.2f}".format))

# %%
# Where on an image does it look?
# -------------------------------
# Saliency is the size of the predictor's gradient at each pixel. The leading direction's answer is
# :math:`|u \cdot v_p|` at each patch, beside the size of the Sobel gradient, with their correlation.

machine.plot_saliency(X_test[:4], labels=[test.classes[label] for label in test.labels[:4]])
plt.show()
