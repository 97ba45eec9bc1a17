r"""
Did it learn the bird, or the water?
====================================

In the *Waterbirds* photographs (Sagawa et al., 2020) waterbirds mostly stand in front of water. Here pullovers take the
place of land birds and coats that of water birds; behind most pullovers are horizontal stripes, behind most coats
vertical ones. A small network is trained on them, and then asked three things: on which groups does it fail, is the
item in its features all the same, and does a new last layer find it?

The questions and the last-layer method are published (arXiv 2204.02937, 2210.11369). The images, the controls of the
probes and all numbers are this library's own. The images come with featlearn and are few, so that intervals are wide.
"""

import copy

import matplotlib.pyplot as plt
import torch
from torch import nn

from featlearn import DFRClassifier, extract_features, group_report, probe_model
from featlearn.datasets import load_fashion_mnist, make_waterbirds_like

images = load_fashion_mnist("train")
data = make_waterbirds_like(
    images, sizes=(880, 40, 20, 460), validation_sizes=(50, 50, 50, 50), test_per_group=100, reuse=True, random_state=0
)
figure = data.plot()

# %%
# Items are used several times, each in one split only, with another background each time. Rows of
# each group:

data.counts()

# %%
# Training
# --------
# Nothing unusual: a small convolutional network, Adam, fifteen passes. After every third the weights are kept.

torch.manual_seed(0)
net = nn.Sequential(
    *[nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2, padding=2), nn.ReLU()],
    *[nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 2)],
)
X, y = torch.from_numpy(data.train.X), torch.from_numpy(data.train.y)
optimizer = torch.optim.Adam(net.parameters(), 1e-3)
kept = {"epoch 0": copy.deepcopy(net.state_dict())}
for epoch in range(1, 16):
    for rows in torch.randperm(len(X)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
        optimizer.step()
    if epoch % 3 == 0:
        kept[f"epoch {epoch}"] = copy.deepcopy(net.state_dict())

# %%
# On which groups does it fail?
# -----------------------------
# The mean that papers report weighs groups as in training, and stays high. The smallest of four equal accuracies
# would lie below their mean too, by chance: that is the second number.

held, test = data.validation, data.test
train_groups = (data.train.y, data.train.s)
predicted = net(torch.from_numpy(test.X)).argmax(dim=1)
erm = group_report(test.y, predicted, (test.y, test.s), train_groups=train_groups, information="none", selection="none")
print(
    f"mean, training shares {erm.mean_accuracy_train_weighted:.2f}; mean of the test rows {erm.mean_accuracy_test:.2f}"
)
print(f"worst group {erm.worst_group_accuracy:.2f}; of four equal groups {erm.expected_min_if_equal:.2f}")

# %%
# Is the item in the features?
# ----------------------------
# Linear heads on rows balanced over the groups predict the item (core) and the stripes (spurious) from the last
# hidden layer, after every few passes. Crosses: the same from raw pixels, and from an untrained network.

probe = probe_model(
    net,
    [(held.X, held.y, held.s)],
    [(test.X, test.y, test.s)],
    checkpoints={name: state for name, state in kept.items() if name != "epoch 0"},
)
axes = probe.plot()
print(probe.summary())

# %%
# After three passes the item reads better than from raw pixels, after fifteen worse, while the stripes come in, which
# linear heads cannot tell from pixels because their phase is random. With a hundred rows a group neither difference
# from pixels is certain, as the summary says; that the network turned from the item to the stripes is plain. Early
# features would have served better here, which a single score of the trained network would not have shown.
#
# A new last layer
# ----------------
# Deep feature reweighting fits the last layer to held-out rows with equal numbers of every group. The comparison says
# which labels a method saw.

Z, Z_test = (extract_features(net, [split.X]) for split in (held, test))
reports = {"as trained": erm}
for name, groups in {"new layer, classes balanced": None, "new layer, groups balanced": (held.y, held.s)}.items():
    head = DFRClassifier(random_state=0).fit(Z, held.y, groups)
    reports[name] = head.report(Z_test, test.y, (test.y, test.s), train_groups=train_groups)
comparison = erm.compare(reports)
comparison.plot()
comparison.frame()[["information", "selection", "worst_group_accuracy", "mean_accuracy_test"]]

# %%
# The held-out rows here have equal groups, so that balancing the classes balances the groups as well, and no group
# label is needed. Where held-out rows are as skewed as the training rows, group labels decide.

plt.show()
