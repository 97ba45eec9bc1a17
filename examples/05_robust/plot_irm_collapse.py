r"""
Why invariant risk minimisation needs features first
====================================================

Labels agree with one input in 75 % of cases, everywhere; with another in 90 and 80 %, depending on the environment, and
in 10 % elsewhere. ERM relies on the second. Penalties that punish what differs between environments (IRMv1) are to find
the first. They do, if both features have been learned before; from scratch they find nothing, because an output of zero
satisfies the penalty exactly.

Penalties: arXiv 1907.02893 (IRMv1), 2003.00688 (V-REx). Feature augmented training: arXiv 2304.11327. The toy is in the
spirit of the latter's theory, computed here; its eight points carry all the probability, so nothing is sampled.
"""

import warnings

import matplotlib.pyplot as plt
import pandas as pd

from featlearn import OODHead
from featlearn.datasets import make_spurious_tabular
from featlearn.exceptions import FeatlearnWarning
from featlearn.robust.two_feature_toy import TwoFeatureToy

# %%
# Two features, eight points
# --------------------------

toy = TwoFeatureToy()
runs = {
    "ERM": toy.train("erm", 500),
    "IRM from scratch": toy.train("irm", 4000),
    "IRM after 10 steps of ERM": toy.train("irm", 4000, pretrain_steps=10),
    "IRM after 100 steps of ERM": toy.train("irm", 4000, pretrain_steps=100),
    "FeAT, two rounds": toy.train("feat", 500),
}
toy.plot(runs)
pd.DataFrame(
    {
        name: {
            "invariant": run.invariant[-1],
            "spurious": run.spurious[-1],
            "accuracy, training": sum(toy.accuracy(run.weights, b) for b in toy.spurious_noise) / 2,
            "accuracy, reversed": toy.accuracy(run.weights, 0.9),
        }
        for name, run in runs.items()
    }
).T.round(3)

# %%
# After ten steps of ERM both features are too small, and IRM lets them go; after a hundred it keeps the invariant
# one. The accuracy of a run that collapsed is the sign of outputs next to zero. A second round of feature augmented
# training finds the invariant feature without being told the environments: the rows that ERM gets wrong are those
# whose second one lies.
#
# The same in a linear head
# -------------------------
# Gaussian rows with five core columns and a spurious one, whose agreement with the label is .95 in one environment
# and .8 in the other; a weight of 10,000 on the penalties. The exact optimum of IRM ignores the spurious column.

splits = [make_spurious_tabular(correlation=rho, n_noise=0, random_state=seed) for seed, rho in enumerate((0.95, 0.8))]
frames = [pd.DataFrame(each.train.X).assign(y=each.train.y, e=i) for i, each in enumerate(splits)]
rows = pd.concat(frames, ignore_index=True)
Z, y, e = rows.drop(columns=["y", "e"]).to_numpy(), rows["y"].to_numpy(), rows["e"].to_numpy()
test = splits[0].test

found = {}
for objective in ("erm", "irm", "vrex", "irmx"):
    for init in ("erm", "random"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeatlearnWarning)  # a collapsed head says so: degenerate_
            head = OODHead(objective, init=init, max_iter=500, random_state=0).fit(Z, y, e)
        report = head.report(test.X, test.y, (test.y, test.s), selection="none")
        found[objective, init] = {
            "worst group": report.worst_group_accuracy,
            "loss, first environment": head.history_[-1]["loss"][0],
            "collapsed": head.degenerate_,
        }
pd.DataFrame(found).T.rename_axis(["objective", "start"])

# %%
# From a small random head IRM stays where it is, next to zero; its accuracy is noise, and ``degenerate_`` says so.
# From an ERM head, the default, it does not.
#
# Over the steps
# --------------

head = OODHead("irm", validation_fraction=0.25, max_iter=500, random_state=0).fit(Z, y, e)
head.plot()
plt.show()
