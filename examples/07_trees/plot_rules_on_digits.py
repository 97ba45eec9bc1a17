r"""
Handwritten digits by a few pictures
====================================

Images of 8 x 8 pixels, ten digits. A plain decision tree asks one pixel at a time; with as many leaves as there are
digits it confuses many of them, and with enough leaves nobody reads it. A feature tree asks several pixels at once: a
rule is a weighted sum of pixels, so a rule is a picture, and a few pictures are the whole model.

Forests and linear models know these digits better. What is shown here is what can be read off a small tree, and what
that costs. The images come with scikit-learn.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

from featlearn import FeatureTreeClassifier

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    digits.data, digits.target, train_size=900, stratify=digits.target, random_state=0
)

# %%
# Trees standardise their inputs, which would blow up the few grey dots near the border. Pixels that hold ink in less
# than a tenth of the training images are left blank.

rare = (X_train > 0).mean(axis=0) < 0.1
X_train, X_test = np.where(rare, 0, X_train), np.where(rare, 0, X_test)

# %%
# The tree
# --------
# With a higher price of pixels than by default, so that rules have fewer of them.

tree = FeatureTreeClassifier(max_depth=5, penalty_scale=0.5, n_init=0, random_state=0).fit(X_train, y_train)
figure = tree.plot(image_shape=(8, 8))

# %%
# Ink on red pixels speaks for "yes", the upper branch, ink on blue ones for "no"; white pixels are not looked at.
# Leaves show the digits that end there, most of them nearly alone: about one leaf a digit. Where two boxes hold the
# same picture, the tree asks the same sum in two places.
#
# One image through the tree
# --------------------------
# A test image, and what each rule on its way made of it: a pixel is red where it moved the sum towards "yes", be it by
# more ink than usual on a red pixel or less than usual on a blue one, and blue where it moved it towards "no".

row = int(np.flatnonzero((tree.predict(X_test) == y_test) & (y_test == 3))[0])
steps = tree.explain(X_test[row]).to_dict()["steps"]
figure, axes = plt.subplots(1, 1 + len(steps), figsize=(2 * (1 + len(steps)), 2.5), layout="constrained")
axes[0].imshow(X_test[row].reshape(8, 8), cmap="Greys")
axes[0].set_title(f"a {y_test[row]}", fontsize=10)
for ax, step in zip(axes[1:], steps, strict=True):
    moved = np.zeros(64)
    for name, amount in step["terms"]:
        moved[tree.input_names_.index(name)] = amount
    ax.imshow(moved.reshape(8, 8), cmap="RdBu_r", vmin=-1, vmax=1)
    answer = "yes" if step["right"] else "no"
    ax.set_title(f"{step['z']:+.2f} > {step['threshold']:+.2f}? {answer}", fontsize=10)
for ax in axes:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# What it costs
# -------------
# Plain trees pruned to all sizes behind the trees that the search considered, on the test images.

path = tree.path_frame(X_test, y_test, cart=(X_train, y_train))
axes = path.plot()

# %%
# Of as many leaves as there are digits, the feature tree is far ahead of a plain one. Counted in weights it is not:
# what it saves in leaves, its rules ask in pixels. And both are behind models that nobody reads:

plain = DecisionTreeClassifier(max_leaf_nodes=tree.n_leaves_, random_state=0).fit(X_train, y_train)
forest = RandomForestClassifier(random_state=0).fit(X_train, y_train)
linear = LogisticRegression(max_iter=3000).fit(X_train / 16, y_train)
pd.DataFrame(
    {
        "accuracy": {
            "feature tree": tree.score(X_test, y_test),
            "plain tree": plain.score(X_test, y_test),
            "random forest": forest.score(X_test, y_test),
            "logistic regression": linear.score(X_test / 16, y_test),
        },
        "leaves": {
            "feature tree": tree.n_leaves_,
            "plain tree": plain.get_n_leaves(),
            "random forest": sum(each.get_n_leaves() for each in forest.estimators_),
        },
    }
).round(3).convert_dtypes()
