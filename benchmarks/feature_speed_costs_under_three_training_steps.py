"""What measuring the speed of all layers of a ResNet-18 costs, in training steps of the same model and batch.

16 images of 32 x 32, all 21 layers, ``finite=False``; a training step is forward, backward and a step of SGD, in eval
mode too. Beside it the groups of ``feature_speed_groups`` and one measurement of the tuner. Times: contestants take
turns in one process, CPU time. Memory: a fresh process each, on top of what the model holds.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from measuring import MEGABYTE, child_arguments, in_fresh_process, interleaved, peak_bytes, report
from networks import noise, resnet18
from torch import nn

from featlearn import FeatureSpeedTuner, feature_speed, feature_speed_groups

MOST_TIME, MOST_MEMORY, IMAGES = 3.0, 2.5, 16


def contestants() -> dict[str, Callable[[], Any]]:
    model, loss = resnet18(), nn.functional.cross_entropy
    batch = noise(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 10
    stepped = resnet18()
    optimizer = torch.optim.SGD(stepped.parameters(), lr=1e-6)

    def training_step() -> None:
        optimizer.zero_grad()
        loss(stepped(batch[0]), batch[1]).backward()
        optimizer.step()

    groups = feature_speed_groups(model, loss, batch)
    tuner = FeatureSpeedTuner(torch.optim.SGD(groups), model, loss, every=1)
    tuner.step(batch, 1.0)  # the first step measures nothing

    return {
        "training step": training_step,
        "feature speed": lambda: feature_speed(model, loss, batch, finite=False),
        "feature speed groups": lambda: feature_speed_groups(model, loss, batch),
        "tuner measurement": lambda: tuner.step(batch, 1.0),
    }


def child(contestant: str) -> None:
    model, loss = resnet18(), nn.functional.cross_entropy
    x, y = noise(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 10
    with torch.no_grad():
        model(x[:1])  # libraries load their kernels
    before = peak_bytes()
    if contestant == "training step":
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        loss(model(x), y).backward()
        optimizer.step()
    elif contestant == "feature speed":
        feature_speed(model, loss, (x, y), finite=False)
    else:
        feature_speed_groups(model, loss, (x, y))
    print(json.dumps((peak_bytes() - before) / MEGABYTE))


def main() -> None:
    torch.set_num_threads(1)
    # First: a new process starts with the peak of the one that it was forked from.
    peaks = {
        name: in_fresh_process(__file__, contestant=name)
        for name in ("training step", "feature speed", "feature speed groups")
    }
    runs = contestants()
    speed = runs["feature speed"]()
    times = interleaved(runs, repeats=3)
    step = times["training step"]["cpu"]
    ratios = {name: time["cpu"] / step for name, time in times.items() if name != "training step"}
    memory = {name: peak / peaks["training step"] for name, peak in peaks.items() if name != "training step"}
    report(
        __file__,
        ratios["feature speed"] <= MOST_TIME and memory["feature speed"] <= MOST_MEMORY and len(speed) == 21,
        most={"time": MOST_TIME, "memory": MOST_MEMORY},
        seconds=times,
        training_steps=ratios,
        peak_megabytes=peaks,
        training_step_memories=memory,
        layers=len(speed),
        check=speed.check,
    )


if __name__ == "__main__":
    arguments = child_arguments()
    main() if arguments is None else child(**arguments)
