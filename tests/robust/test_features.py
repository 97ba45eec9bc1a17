"""Features are what a forward pass by hand gives, for any model, layer and batches; the model is a guest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, SubsetRandomSampler, TensorDataset

from featlearn._random import preserved_rng
from featlearn.exceptions import DataError, FeatlearnWarning, UnmeasurableError
from featlearn.robust import pooling
from featlearn.robust.features import extract, extract_features


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(build) -> nn.Module:
    with preserved_rng():
        torch.manual_seed(0)
        return build()


def mlp() -> nn.Sequential:
    return built(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)))


def cnn() -> nn.Sequential:
    return built(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 7), nn.ReLU(inplace=True), nn.Linear(7, 3),
        )
    )  # fmt: skip


class Twice(nn.Module):
    """A shared linear layer below a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.shared(torch.tanh(self.shared(x)))))


class Frozen(IterableDataset):
    """A stream, whose length nobody knows."""

    def __init__(self, X: Tensor) -> None:
        self.X = X

    def __iter__(self):
        return iter(self.X)


# --- right values -----------------------------------------------------------------------------------------------------


def test_penultimate_features_of_an_mlp_are_what_its_last_linear_layer_reads() -> None:
    model, X = mlp(), normal(10, 6)
    found = extract_features(model, X.split(4))
    with torch.no_grad():
        expected = torch.relu(model[2](torch.relu(model[0](X))))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found @ model[4].weight.T + model[4].bias, model(X))


def test_several_layers_of_a_convnet_in_training_mode_come_from_one_forward_pass_in_evaluation_mode() -> None:
    model, X = cnn().train(), normal(9, 2, 6, 6)
    model[1].running_mean.normal_(generator=torch.Generator().manual_seed(1))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    found = extract_features(model, X.split(4), layer=["0", "2", "6", "8.input", "input"], pool="flatten")
    assert len(calls) == 3
    assert all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0)
    with torch.no_grad():
        conv = F.conv2d(X, model[0].weight, model[0].bias, padding=1)
        normed = F.batch_norm(conv, model[1].running_mean, model[1].running_var, model[1].weight, model[1].bias)
        last = model[6](F.adaptive_avg_pool2d(normed.relu(), 2).flatten(1))
    expected = {"0": conv, "2": normed.relu(), "6": last, "8.input": last.relu(), "input": X}
    assert list(found) == list(expected)
    for name, rows in expected.items():
        torch.testing.assert_close(found[name], rows.flatten(1), msg=name)


def test_auto_takes_the_mean_over_positions_of_images_alone_and_says_so() -> None:
    model, X = cnn(), normal(5, 2, 6, 6)
    found = extract(model, [X], layers=["0", "6", "input", None])
    assert found.pool == {"0": "mean", "6": "flatten", "input": "flatten", "penultimate": "flatten"}
    with torch.no_grad():
        torch.testing.assert_close(found.features["0"], model.eval()[0](X).mean((2, 3)))
    assert found.features["input"].shape == (5, 72)


def test_tokens_of_a_transformer_are_averaged_and_channels_of_a_convolution_are_kept() -> None:
    block = built(lambda: nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True))
    X = normal(6, 5, 8)
    with torch.no_grad():
        block.eval()
        expected = block(X).mean(1)
        block.train()
    found = extract_features(block, X.split(3), layer=["norm2", "linear2.input"], pool="mean")
    torch.testing.assert_close(found["norm2"], expected)
    assert found["linear2.input"].shape == (6, 12)  # the fast path of torch would not call linear2
    conv = built(lambda: nn.Conv1d(3, 4, 2))
    torch.testing.assert_close(
        extract_features(nn.Sequential(conv), [normal(6, 3, 9)], layer="0", pool="mean"),
        conv(normal(6, 3, 9)).mean(2).detach(),
    )
    last = built(lambda: nn.Linear(3, 4))  # channels last, as in ConvNeXt
    torch.testing.assert_close(
        extract_features(nn.Sequential(last), [normal(6, 5, 7, 3)], layer="0"),
        last(normal(6, 5, 7, 3)).mean((1, 2)).detach(),
    )


@given(size=st.integers(1, 12))
def test_features_do_not_depend_on_the_size_of_batches(size: int) -> None:
    model, X = cnn(), normal(12, 2, 6, 6)
    torch.testing.assert_close(extract_features(model, X.split(size)), extract_features(model, [X]))


def test_features_follow_the_kind_of_the_batches_and_the_dtype_that_was_asked_for() -> None:
    model, X = mlp().double(), normal(8, 6)
    tensors, arrays = extract_features(model, [X]), extract_features(model, [X.numpy()])
    assert isinstance(tensors, Tensor)
    assert tensors.dtype == torch.float32
    assert isinstance(arrays, np.ndarray)
    assert arrays.dtype == np.float32
    np.testing.assert_array_equal(arrays, tensors.numpy())
    exact = extract_features(model, [X], dtype=np.float64)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), tensors)
    assert not torch.equal(exact, tensors.double())
    for other in (np.int64, "junk", complex, torch.bfloat16):
        with pytest.raises(DataError, match="expected float16"):
            extract_features(model, [X], dtype=other)


def test_mappings_and_tuples_give_the_same_features_and_their_labels() -> None:
    model, X, y, s = mlp(), normal(8, 6), torch.arange(8), np.array(list("abababab"))
    parts = [(X[:5], y[:5], s[:5]), (X[5:], y[5:], s[5:])]
    features, labels, attribute = extract_features(model, parts, return_labels=True)
    torch.testing.assert_close(labels, y)
    np.testing.assert_array_equal(attribute, s)
    for key in ("x", "input", "inputs"):
        mapped = [{"y": y, "s": s} | {key: x} for x, y, s in parts]
        again, other_y, other_s = extract_features(model, mapped, return_labels=True)
        torch.testing.assert_close(again, features)
        torch.testing.assert_close(other_y, y)
        np.testing.assert_array_equal(other_s, s)


def test_keyword_arguments_reach_the_model_without_the_labels() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head((self.embed(input_ids) * attention_mask[..., None]).sum(1))

    model = built(Masked)
    ids, mask = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1])}
    features, labels = extract_features(model, [batch], return_labels=True)
    torch.testing.assert_close(features, (model.embed(ids) * mask[..., None]).sum(1).detach())
    assert labels.tolist() == [0, 1]
    torch.testing.assert_close(extract_features(model, [batch], layer="embed"), model.embed(ids).flatten(1).detach())


def test_in_place_operations_change_neither_an_output_nor_an_input_that_was_named() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(x * 1.0))

    X = normal(7, 6)
    found = extract_features(built(InPlace), [X], layer=["act.input", "act", "input"])
    torch.testing.assert_close(found["act.input"], X)
    torch.testing.assert_close(found["act"], X.relu())
    torch.testing.assert_close(found["input"], X)


def test_penultimate_features_that_are_overwritten_later_are_refused_and_can_be_named() -> None:
    class Overwritten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            out = self.head(h)
            return h.add_(out)

    model, X = built(Overwritten), normal(5, 6)
    with pytest.raises(UnmeasurableError, match=r"layer='head\.input'"):
        extract_features(model, [X])
    torch.testing.assert_close(extract_features(model, [X], layer="head.input"), model.body(X).detach())


def test_penultimate_features_made_in_inference_mode_are_copied_in_time() -> None:
    class Inference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 4)

        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            out = self.head(h)
            return h.zero_().add_(out)

    model, X = built(Inference), normal(5, 6)
    found = extract_features(model, [X])
    torch.testing.assert_close(found, F.linear(X, model.body.weight, model.body.bias).detach())
    assert not found.is_inference()


def test_the_first_argument_is_that_of_the_forward_method_whatever_the_order_of_the_call() -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask

    class Loose(nn.Module):
        def forward(self, **inputs: Tensor) -> Tensor:
            return inputs["x"] * 2

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.loose = Block(), Loose()

        def forward(self, x: Tensor) -> Tensor:
            return self.loose(x=self.block(mask=torch.ones_like(x), x=x))

    X = normal(5, 6)
    found = extract_features(Model(), [X], layer=["block.input", "loose.input"])
    torch.testing.assert_close(found["block.input"], X)
    torch.testing.assert_close(found["loose.input"], X)


def test_a_mean_is_told_only_where_there_are_positions() -> None:
    assert extract(mlp(), [normal(5, 6)], layers=[None, "0"], pool="mean").pool == {
        "penultimate": "flatten", "0": "flatten",
    }  # fmt: skip


def test_the_default_device_is_not_where_features_are_kept() -> None:
    model, X = mlp(), normal(5, 6)
    expected = extract_features(model, [X])
    with torch.device("meta"):
        found = extract_features(model, [X])
    torch.testing.assert_close(found, expected)


def test_a_sampler_without_a_length_serves() -> None:
    class Endless(torch.utils.data.Sampler):
        def __iter__(self):
            return iter(range(10))

    X = normal(10, 6)
    loader = DataLoader(X, batch_size=4, sampler=Endless())
    torch.testing.assert_close(extract_features(mlp(), loader), extract_features(mlp(), [X]))


def test_sums_that_overflow_and_masks_are_read() -> None:
    model = built(lambda: nn.Sequential(nn.Identity(), nn.Linear(6, 2)))
    X = torch.full((4, 6), 3e38)
    torch.testing.assert_close(extract_features(model, [X]), X)
    X[0] = -torch.inf
    torch.testing.assert_close(extract_features(model, [X]), X)
    X[1] = torch.inf
    with pytest.raises(DataError, match="not finite in batch 0"):
        extract_features(model, [X])
    with pytest.raises(DataError, match=r"not finite in batch 0, as torch\.float32"):
        extract_features(model, [torch.full((4, 6), 1e300, dtype=torch.float64)])


def test_a_stream_of_unknown_length_gives_the_same_rows() -> None:
    model, X = mlp(), normal(50, 6)
    expected = extract_features(model, [X])
    torch.testing.assert_close(extract_features(model, (part for part in X.split(3))), expected)
    torch.testing.assert_close(extract_features(model, DataLoader(Frozen(X), batch_size=7)), expected)
    dropped = extract_features(model, DataLoader(X, batch_size=8, drop_last=True))
    torch.testing.assert_close(dropped, expected[:48])
    assert dropped.untyped_storage().nbytes() == 48 * 5 * 4


def test_the_device_of_the_model_is_used_as_it_is_and_another_one_must_exist() -> None:
    model, X = mlp(), normal(5, 6)
    torch.testing.assert_close(extract_features(model, [X], device="cpu"), extract_features(model, [X]))
    with pytest.raises(RuntimeError, match="device"):
        extract_features(model, [X], device="no such device")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_another_device_runs_a_copy() -> None:
    model, X = mlp(), normal(5, 6)
    found = extract_features(model, [X], device="cuda")
    torch.testing.assert_close(found, extract_features(model, [X]), rtol=1e-4, atol=1e-5)
    assert model[0].weight.device.type == "cpu"


# --- a guest ----------------------------------------------------------------------------------------------------------


class Draws(nn.Module):
    """Draws a random number in every pass and fails at the third."""

    def __init__(self) -> None:
        super().__init__()
        self.net = cnn()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3)
        self.passes += 1
        if self.passes == 3:
            raise RuntimeError("third pass")
        return self.net(x)


def test_mode_hooks_gradients_buffers_and_random_numbers_are_restored_after_an_exception() -> None:
    model, X = Draws(), normal(9, 2, 6, 6)
    model.net[1].eval()
    model.net[0].weight.requires_grad_(False)
    model.net[6].weight.grad = torch.ones_like(model.net[6].weight)
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="third pass"):
        extract_features(model, X.split(3), layer=["net.0", "net.8.input"])
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model.net[6].weight.grad, torch.ones_like(model.net[6].weight))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_hooks_of_the_user_keep_working_and_are_seen_through() -> None:
    model, X = mlp(), normal(5, 6)
    handle = model[4].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    plain = extract_features(mlp(), [X])
    torch.testing.assert_close(extract_features(model, [X]), 2 * plain)
    assert len(model[4]._forward_pre_hooks) == 1
    handle.remove()


def test_nothing_of_the_graph_is_kept() -> None:
    X = normal(5, 6).requires_grad_()
    found = extract_features(mlp(), [X], layer=["0", "input"])
    assert not any(rows.requires_grad for rows in found.values())


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_module_that_runs_twice_is_refused_unless_a_call_is_named() -> None:
    model, X = built(Twice), normal(5, 4)
    with pytest.raises(UnmeasurableError, match="runs 2 times in one forward pass"):
        extract_features(model, [X], layer="shared")
    with torch.no_grad():
        first = model.shared(X)
        second = model.shared(first.tanh())
    for call, expected in ((0, first), (1, second), ("last", second)):
        torch.testing.assert_close(extract_features(model, X.split(2), layer="shared", call=call), expected)
    torch.testing.assert_close(extract_features(model, [X], layer="shared.input", call=1), first.tanh())
    with pytest.raises(UnmeasurableError, match="ran 2 times in batch 0, but expected call=2"):
        extract_features(model, [X], layer="shared", call=2)
    torch.testing.assert_close(extract_features(model, [X]), second.relu())  # the head runs once


def test_a_last_linear_layer_that_runs_twice_needs_a_call_too() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.step(self.step(x).tanh())

    model, X = built(Recurrent), normal(5, 4)
    with pytest.raises(UnmeasurableError, match="'step' runs 2 times"):
        extract_features(model, [X])
    torch.testing.assert_close(extract_features(model, [X], call=0), X)
    torch.testing.assert_close(extract_features(model, [X], call="last"), model.step(X).tanh().detach())
    with pytest.raises(UnmeasurableError, match="expected call=5"):
        extract_features(model, [X], call=5)


@pytest.mark.parametrize("call", [-1, True, 1.0, "first"])
def test_other_calls_are_refused(call: object) -> None:
    with pytest.raises(DataError, match="expected None, 'last' or a number from 0"):
        extract_features(mlp(), [normal(5, 6)], call=call)


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_shuffling_loader_is_refused_before_the_model_runs() -> None:
    data = TensorDataset(normal(8, 6), torch.arange(8))
    model = mlp()
    model.register_forward_hook(lambda *_: pytest.fail("the model ran"))
    random = [
        DataLoader(data, batch_size=4, shuffle=True),
        DataLoader(data, batch_size=4, sampler=SubsetRandomSampler(range(8))),
        DataLoader(data, batch_size=4, sampler=DistributedSampler(data, num_replicas=1, rank=0)),
        DataLoader(
            data, batch_sampler=torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(data), 4, drop_last=False)
        ),
    ]
    for loader in random:
        with pytest.raises(DataError, match="shuffle=False"):
            extract_features(model, loader)


def test_a_shuffling_loader_may_be_allowed_and_gives_matching_labels() -> None:
    X, y = normal(16, 6), torch.arange(16)
    loader = DataLoader(TensorDataset(X, y), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(1))
    features, labels = extract_features(mlp(), loader, return_labels=True, allow_shuffled=True)
    assert labels.tolist() != y.tolist()
    torch.testing.assert_close(features, extract_features(mlp(), [X])[labels])


def test_unknown_and_unreadable_layers_are_refused_by_name() -> None:
    model, X = mlp(), normal(5, 6)
    with pytest.raises(UnmeasurableError, match=r"'head', but the model has no such module\. The closest are"):
        extract_features(model, [X], layer="head")
    with pytest.raises(UnmeasurableError, match=r"Got layer '9\.input'"):
        extract_features(model, [X], layer="9.input")
    with pytest.raises(UnmeasurableError, match="Got the layer 4"):
        extract_features(model, [X], layer=[4])
    with pytest.raises(UnmeasurableError, match="Got the layer 4"):
        extract_features(model, [X], layer=4)
    with pytest.raises(UnmeasurableError, match=r"has no nn\.Linear"):
        extract_features(nn.Sequential(nn.Conv2d(2, 3, 1)), [normal(5, 2, 4, 4)])
    with pytest.raises(DataError, match="Got no layers"):
        extract_features(model, [X], layer=[])

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(UnmeasurableError, match="'unused' did not run in batch 0"):
        extract_features(Unused(), [X], layer="unused")


def test_tensors_without_a_row_for_every_sample_are_refused() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frames, self.head = nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.frames(x.reshape(-1, 3)).reshape(len(x), -1))

    with pytest.raises(UnmeasurableError, match=r"shape \(10, 2\) for 5 samples"):
        extract_features(built(Folded), [normal(5, 6)], layer="frames")
    lstm = built(lambda: nn.Sequential(nn.LSTM(3, 4, batch_first=True)))
    assert extract_features(lstm, [normal(5, 6, 3)], layer="0", pool="mean").shape == (5, 4)  # first of the tuple

    class Words(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"hidden": x}

    with pytest.raises(UnmeasurableError, match="gave dict, but expected a tensor"):
        extract_features(nn.Sequential(Words()), [normal(5, 6)], layer="0")


def test_inputs_of_several_sizes_need_the_mean() -> None:
    model = built(lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)))
    batches = [normal(4, 2, 5, 5), normal(4, 2, 6, 6)]
    assert extract_features(model, batches, layer="0").shape == (8, 3)
    with pytest.raises(UnmeasurableError, match="108 features of layer '0' after 75"):
        extract_features(model, batches, layer="0", pool="flatten")


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "Got no batches"),
        (normal(5, 6), "expected an iterable of batches"),
        ([normal(0, 6)], "Got no rows in batch 0"),
        ([normal(5, 6), "words"], "Got batch 1 of type str"),
        ([normal(5, 6) / 0], "not finite in batch 0"),
        ([np.array([["a", "b"]])], "Got no tensor or array of numbers in batch 0"),
        ([np.ones((5, 6), dtype=object)], "Got no tensor or array of numbers in batch 0"),
        ([([[1.0] * 6], [0])], "Got no tensor or array of numbers in batch 0"),
    ],
    ids=["none", "tensor", "empty", "words", "infinite", "strings", "objects", "lists"],
)
def test_batches_that_cannot_be_read_are_refused(batches: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        extract_features(mlp(), batches)


def test_labels_that_do_not_match_are_refused() -> None:
    X = normal(5, 6)
    with pytest.raises(DataError, match="without labels"):
        extract_features(mlp(), [X], return_labels=True)
    with pytest.raises(DataError, match=r"labels of \[4\] rows for 5 samples in batch 0"):
        extract_features(mlp(), [(X, torch.arange(4))], return_labels=True)
    with pytest.raises(DataError, match="different numbers of labels"):
        extract_features(mlp(), [(X, torch.arange(5)), (X, torch.arange(5), torch.arange(5))], return_labels=True)
    with pytest.raises(DataError, match="expected 'auto', 'flatten' or 'mean'"):
        extract_features(mlp(), [X], pool="max")


def test_much_memory_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "ANNOUNCED", 400)
    X = normal(20, 6)
    with pytest.warns(FeatlearnWarning, match="20 rows of 6 numbers"):
        extract_features(mlp(), X.split(5), layer="input")
    extract_features(mlp(), X.split(5))  # 400 bytes are not more than that
    with pytest.warns(FeatlearnWarning) as caught:
        extract_features(mlp(), (part for part in X.split(1)), layer="input")
    assert len(caught) == 1  # not again as the store grows


def test_progress_goes_to_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    extract_features(mlp(), [normal(5, 6)], verbose=1)
    assert not capsys.readouterr().out
