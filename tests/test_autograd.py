"""Gradients against torch's and against central differences, for every operator and broadcast."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import autograd
from minigpt.autograd import (
    Tensor,
    as_tensor,
    check_gradients,
    numeric_gradient,
    topological_order,
    unbroadcast,
)

rng = np.random.default_rng


def gradients(function, arrays: list[np.ndarray], seed: int = 0) -> list[list[np.ndarray]]:
    """Return [result, gradients...] of ours and of torch, for a random weighting of the result."""
    found = []
    for make in (Tensor, lambda a: torch.tensor(a, requires_grad=True)):
        inputs = [make(array) for array in arrays]
        result = function(*inputs)
        weighting = rng(seed).normal(size=tuple(result.shape))
        is_ours = isinstance(result, Tensor)
        (result * (weighting if is_ours else torch.tensor(weighting))).sum().backward()
        values = result.data if is_ours else result.detach()
        found.append([np.asarray(values), *(np.asarray(x.grad) for x in inputs)])
    return found


def assert_equal_torch(function, *arrays: np.ndarray) -> None:
    """Compare value and gradients to 1e-6 of the largest, which float64 keeps easily."""
    ours, theirs = gradients(function, list(arrays))
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max(initial=1e-9))


@st.composite
def broadcastable(draw) -> tuple[np.ndarray, np.ndarray]:
    """Draw two arrays whose shapes broadcast: axes of length 1 and missing axes in front."""
    full = draw(st.lists(st.integers(1, 4), max_size=4))
    shapes = []
    for _ in range(2):
        kept = full[draw(st.integers(0, len(full))) :]
        shapes.append([n if draw(st.booleans()) else 1 for n in kept])
    numbers = rng(draw(st.integers(0, 10**6)))
    a, b = (numbers.normal(size=shape) for shape in shapes)
    return a, np.sign(b) * (0.3 + np.abs(b))  # away from 0, so that it can divide


PAIRS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "twice": lambda a, b: a * b + a / b - a,
}


@pytest.mark.parametrize("name", PAIRS)
@given(pair=broadcastable())
@settings(max_examples=60, deadline=None)
def test_operators_of_two_broadcast_as_torch_does(name, pair):
    assert_equal_torch(PAIRS[name], *pair)


def torch_or_numpy(numpy_call, torch_call):
    """Give our call to our tensors and torch's to torch's."""
    return lambda x: numpy_call(x) if isinstance(x, Tensor) else torch_call(x)


INDEX = np.array([2, 0, 2, 2, 1])
SINGLES = {
    "neg": lambda x: -x,
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "power 0": lambda x: x**0,
    "exp": lambda x: x.exp(),
    "tanh": lambda x: x.tanh(),
    "relu": lambda x: x.relu(),
    "log": lambda x: (x * x + 0.1).log(),
    "root": lambda x: (x * x + 0.1) ** 0.5,
    "reciprocal": lambda x: (x * x + 0.1) ** -1,
    "number on the left": lambda x: 2 + 3 * x - (1 - x) + 1 / (x * x + 1),
    "sum": lambda x: x.sum(),
    "sum 1": torch_or_numpy(lambda x: x.sum(1), lambda x: x.sum(1)),
    "sum -1": torch_or_numpy(lambda x: x.sum(-1), lambda x: x.sum(-1)),
    "sum two": torch_or_numpy(lambda x: x.sum((0, 2)), lambda x: x.sum((0, 2))),
    "sum keep": torch_or_numpy(lambda x: x.sum(1, keepdims=True), lambda x: x.sum(1, keepdim=True)),
    "mean": lambda x: x.mean(),
    "mean 0": torch_or_numpy(lambda x: x.mean(0), lambda x: x.mean(0)),
    "mean keep": torch_or_numpy(
        lambda x: x.mean((0, 1), keepdims=True), lambda x: x.mean((0, 1), keepdim=True)
    ),
    "max": torch_or_numpy(lambda x: x.max(), lambda x: x.amax()),
    "max 1": torch_or_numpy(lambda x: x.max(1), lambda x: x.amax(1)),
    "max two": torch_or_numpy(
        lambda x: x.max((0, -1), keepdims=True), lambda x: x.amax((0, -1), keepdim=True)
    ),
    "max of equals": torch_or_numpy(
        lambda x: (x * 0 + 1).max(2) * x.max(2), lambda x: (x * 0 + 1).amax(2) * x.amax(2)
    ),
    "reshape": lambda x: x.reshape(5, 12),
    "reshape -1": lambda x: x.reshape(-1) ** 2,
    "T": torch_or_numpy(lambda x: x.T, lambda x: x.permute(2, 1, 0)),
    "transpose": torch_or_numpy(lambda x: x.transpose(1, -1, 0), lambda x: x.permute(1, -1, 0)),
    "row": lambda x: x[1],
    "slices": lambda x: x[:, 1:4:2, -1],
    "new axis": lambda x: x[:, None] * x[None],
    "repeated rows": lambda x: x[INDEX],
    "gather": lambda x: x.reshape(-1, 4)[np.arange(5), np.array([3, 0, 0, 1, 2])],
    "mask": lambda x: x[np.arange(60).reshape(3, 5, 4) % 3 == 0],
}


@pytest.mark.parametrize("name", SINGLES)
def test_functions_of_one_equal_torch(name):
    assert_equal_torch(SINGLES[name], rng(3).normal(size=(3, 5, 4)))


@pytest.mark.parametrize("name", [n for n in SINGLES if n != "max of equals"])
def test_functions_of_one_equal_central_differences(name):
    x = Tensor(rng(4).normal(size=(3, 5, 4)))
    weighting = rng(5).normal(size=SINGLES[name](x).shape)
    check_gradients(lambda: (SINGLES[name](x) * weighting).sum(), [x])


@pytest.mark.parametrize("name", PAIRS)
def test_operators_of_two_equal_central_differences(name):
    a, b = Tensor(rng(6).normal(size=(3, 1, 4))), Tensor(rng(7).uniform(1, 2, size=(5, 1)))
    check_gradients(lambda: (PAIRS[name](a, b) ** 2).sum(), [a, b])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 5), (5, 2)),
        ((1, 1), (1, 1)),
        ((4, 3, 5), (5, 2)),
        ((3, 5), (4, 5, 2)),
        ((4, 1, 3, 5), (6, 5, 2)),
        ((0, 5), (5, 2)),
    ],
)
def test_matrix_products_equal_torch_and_central_differences(left, right):
    a, b = rng(0).normal(size=left), rng(1).normal(size=right)
    assert_equal_torch(lambda a, b: a @ b, a, b)
    a, b = Tensor(a), Tensor(b)
    check_gradients(lambda: (a @ b).tanh().sum(), [a, b])


def test_matrix_product_refuses_vectors():
    with pytest.raises(AssertionError, match="matrices"):
        Tensor(np.ones((2, 3))) @ np.ones(3)


def test_numpy_on_the_left_leaves_the_operator_to_tensor():
    x, array = Tensor([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    for result in (array + x, array - x, array * x, array / x, array @ x, 2 * x):
        assert isinstance(result, Tensor)
    (array @ x).sum().backward()
    assert x.grad.tolist() == [[7.0, 7.0]]


def test_a_network_by_hand():
    """Loss = (w x + b - y)², w = 3, x = 2, b = 1, y = 5: error 2, so dw = 2·2·2, db = 2·2."""
    w, b = Tensor(3.0), Tensor(1.0)
    ((w * 2 + b - 5) ** 2).backward()
    assert (w.grad, b.grad) == (8.0, 4.0)


# Accumulation, repetition, order


def test_a_tensor_used_many_times_gets_every_gradient():
    x = Tensor(3.0)
    (x * x + x * x * x + x).backward()
    assert x.grad == 2 * 3 + 3 * 3**2 + 1
    y = Tensor(1.5)
    z = y
    for _ in range(10):
        z = z + z
    z.backward()
    assert y.grad == 2**10


def test_backward_adds_to_parameters_and_starts_results_anew():
    w = Tensor([1.0, 2.0])
    hidden = w * w
    loss = hidden.sum()
    loss.backward()
    loss.backward()
    (hidden * 10).sum().backward()  # a second loss over a shared part
    assert w.grad.tolist() == [12 * 2.0, 12 * 4.0]
    w.zero_grad()
    assert w.grad.tolist() == [0, 0]
    v = torch.tensor([1.0, 2.0], requires_grad=True)
    (v * v).sum().backward()
    (v * v).sum().backward()
    (v * v * 10).sum().backward()
    assert v.grad.tolist() == [24.0, 48.0]


def test_backward_of_an_input_alone():
    x = Tensor(4.0)
    x.backward()
    x.backward()
    assert x.grad == 2


def test_backward_refuses_more_than_one_number():
    with pytest.raises(AssertionError, match=r"one number, not at shape \(2,\)"):
        Tensor([1.0, 2.0]).backward()


def test_long_chains_need_no_recursion():
    x = Tensor(0.0)
    y = x
    for _ in range(5_000):
        y = y + 1
    y.backward()
    assert (y.item(), x.grad) == (5_000, 1)


@given(st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_order_puts_parents_first_in_random_graphs(seed):
    numbers = rng(seed)
    nodes = [Tensor(1.0) for _ in range(3)]
    for _ in range(20):
        a, b = (nodes[i] for i in numbers.integers(0, len(nodes), 2))
        nodes.append(a + b if numbers.random() < 0.5 else a * b)
    order = topological_order(nodes[-1])
    place = {node: i for i, node in enumerate(order)}
    assert len(place) == len(order)
    assert order[-1] is nodes[-1]
    assert all(place[p] < place[node] for node in order for p in node.parents)


def test_a_wrong_order_gives_wrong_gradients(monkeypatch):
    """Negative control: without a topological order, a node passes on before it has everything."""
    x = Tensor(1.0)
    y = x * 2
    z = y * 3 + y
    monkeypatch.setattr(autograd, "topological_order", lambda root: [x, *root.parents, y, root])
    z.backward()
    assert x.grad != 8


# Memory, shapes, safety


@pytest.mark.slow
def test_a_dropped_graph_is_freed_at_once_without_the_garbage_collector():
    """No function of an operator holds its own result, so there are no reference cycles."""
    gc.collect()
    gc.disable()
    try:
        x = Tensor(np.ones((3, 4)))
        y = (((x @ x.T).exp() + 1).log().tanh().relu() ** 2 / 3)[1:].max(0).reshape(1, 3).T.sum()
        y.backward()
        del y
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_no_operation_changes_the_callers_array():
    array = np.array([[1.0, -2.0], [3.0, 0.5]])
    before = array.copy()
    x = Tensor(array)
    ((x @ x).exp().relu() + x.reshape(4)[np.array([0, 0])].sum() - x.T).max().backward()
    numeric_gradient(lambda: (x**2).sum(), x)
    assert np.array_equal(array, before)
    assert x.data is array


def test_gradients_do_not_share_memory():
    a, b = Tensor(np.ones(3)), Tensor(np.ones(3))
    (a + b).sum().backward()
    a.grad += 1
    assert b.grad.tolist() == [1, 1, 1]


@given(broadcastable())
@settings(max_examples=100, deadline=None)
def test_unbroadcast_undoes_broadcasting(pair):
    array, other = pair
    full = np.broadcast_shapes(array.shape, other.shape)
    repeats = np.prod(full, dtype=int) // max(1, array.size)
    summed = unbroadcast(np.broadcast_to(array, full), array.shape)
    assert summed.shape == array.shape
    np.testing.assert_allclose(summed, array * repeats)


def test_numbers_lists_and_integers_become_float64():
    for value in (3, [1, 2], np.arange(4), np.float32(2)):
        assert Tensor(value).data.dtype == np.float64
        assert Tensor(value).grad.shape == np.shape(value)
    x = Tensor(1)
    assert as_tensor(x) is x
    assert repr(Tensor([[1, 2], [3, 4]])) == "Tensor([[1., 2.],\n        [3., 4.]])"
    assert (Tensor([[2.5]]).item(), Tensor([[2.5]]).shape) == (2.5, (1, 1))


def test_power_refuses_a_tensor_as_exponent():
    with pytest.raises(AssertionError, match="plain number"):
        Tensor(2.0) ** Tensor(3.0)


# The gradient check itself


def test_the_check_passes_what_is_right_and_fails_what_is_wrong():
    x = Tensor([0.5, -1.5])

    def wrong_square(t):
        return Tensor(t.data**2, (t,), "?", lambda gradient: t.add_gradient(gradient * t.data))

    check_gradients(lambda: (x**2).sum(), [x])
    with pytest.raises(AssertionError, match=r"tensor 0: backward and differences are 1\.5 apart"):
        check_gradients(lambda: wrong_square(x).sum(), [x])


def test_numeric_gradient_leaves_the_tensor_as_it_was():
    x = Tensor([[1.0, 2.0, 3.0]])
    data = x.data
    np.testing.assert_allclose(numeric_gradient(lambda: (x**3).sum(), x), [[3, 12, 27]], rtol=1e-6)
    assert x.data is data
