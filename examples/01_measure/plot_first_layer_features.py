r"""
What a first layer looks for
============================

The AGOP of a convolution is a matrix over its input patches. Its top eigenvectors are the patterns that the outputs are
most sensitive to, wherever in the image they appear; those of :math:`W^\top W`, the covariance of the filters, are the
patterns that carry most weight. Both are small images.

The first part trains a CNN on the Fashion-MNIST subset that comes with featlearn. The last part reads a ResNet-20
trained by others from the folder that ``FEATLEARN_DATA`` names, and is left out without it.
"""

import os

import matplotlib.pyplot as plt
import torch
from torch import nn

from featlearn import agop_of_module, measure_features, patch_agop
from featlearn.datasets import CIFAR_MEAN, CIFAR_STD, load_cifar10_jpeg, load_cifar_resnet, load_fashion_mnist
from featlearn.plots import plot_directions, plot_spectra

MEAN, STD = 0.286, 0.353

train, test = load_fashion_mnist("train"), load_fashion_mnist("test", n=400)
X, y = train.normalized(MEAN, STD), train.labels
batches = test.batches(40, mean=MEAN, std=STD)

torch.manual_seed(0)
net = nn.Sequential(
    *[nn.Conv2d(1, 32, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2)],
    *[nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)],
    *[nn.Flatten(), nn.Linear(32 * 3 * 3, 128), nn.ReLU(), nn.Linear(128, 10)],
)
before = measure_features(net, batches)

# %%
# Weight decay lets go of what the network does not use, so that few directions remain.

optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-2)
for _ in range(12):
    for rows in torch.randperm(len(X)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
        optimizer.step()
after = measure_features(net, batches)
with torch.no_grad():
    print(f"test accuracy {(net(test.normalized(MEAN, STD)).argmax(1) == test.labels).double().mean():.2f}")

# %%
# Before training
# ---------------
# Noise, in both: random filters have no structure, and the outputs depend on the image through them alone. That the two
# rows span nearly the same space means nothing, since both matrices live in the row space of the same W.

plot_directions(before.to_dict())
plt.show()

# %%
# After training
# --------------
# Differences between a bright and a dark side (vertical, horizontal and slanted edges), bars and blobs. The three
# leading directions of the AGOP are three of those that lead in :math:`W^\top W`, in a different order and with other
# signs.

# sphinx_gallery_thumbnail_number = 2
plot_directions(after.to_dict())
plt.show()

# %%
# The numbers behind the pictures. The correlation was high before training already, because chance is high in a layer
# with few inputs; what training adds is the excess.

for label, report in (("before", before), ("after", after)):
    layer = report["0"]
    print(
        f"{label}: NFA {layer.nfa:.3f}, chance {layer.nfa_null:.3f}, excess {layer.nfa_excess:+.2f}\n"
        f"  at power 1/2: NFA {layer.nfa_half.value:.3f}, chance {layer.nfa_half.null:.3f}, "
        f"excess {layer.nfa_half.excess:+.2f}\n  overlap of the top ten directions {layer.subspace_overlap:.2f}, "
        f"effective rank of the AGOP {layer.agop_spectrum.effective_rank:.1f} of {layer.d}"
    )

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for ax, (label, report) in zip(axes, (("before", before), ("after", after)), strict=True):
    plot_spectra(report.to_dict(), ax=ax)
    ax.set_title(f"eigenvalues of the AGOP, {label} training", fontsize=10)
plt.show()

# %%
# The matrix itself
# -----------------
# :func:`~featlearn.agop_of_module` gives the matrices without the statistics, and :func:`~featlearn.patch_agop` the
# patch AGOP over all input channels with its eigenvectors as images.

agop = patch_agop(agop_of_module(net, batches, layers="0")["0"])
print(f"patch AGOP {tuple(agop.matrix.shape)}, top eigenvectors as images {tuple(agop.images(4).shape)}")

# %%
# A network trained by others
# ---------------------------
# The 3x3 patches of a ResNet-20 for CIFAR-10, in colour about mid-grey. The direction that its outputs are by far most
# sensitive to is a bright centre against its surroundings; next come differences of colours, then edges. In
# :math:`W^\top W` centres of one colour lead, and the eigenvalues are far more even.

if os.environ.get("FEATLEARN_DATA"):
    photographs = load_cifar10_jpeg("test", n=200).batches(20, mean=CIFAR_MEAN, std=CIFAR_STD)
    report = measure_features(load_cifar_resnet("resnet20"), photographs, layers="conv1")
    layer = report["conv1"]
    for name, spectrum in (("AGOP", layer.agop_spectrum), ("W^T W", layer.nfm_spectrum)):
        print(f"{name}: eigenvalues relative to the largest {(spectrum.values[:6] / spectrum.values[0]).round(2)}")
    plot_directions(report.to_dict())
    plt.show()
else:
    print("FEATLEARN_DATA is not set: the ResNet-20 is left out.")
