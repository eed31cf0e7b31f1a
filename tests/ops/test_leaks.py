"""What must not reach a query: later tokens, padding, and the values of landmarks and gates."""

import pytest
import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Kind
from hierlandmark.ops import Impl, landmark_attention
from tests.ops.cases import CASES, ON_CPU, Case, Tensors, at, padding, random_tensors, run

modes = pytest.mark.parametrize("mode", ["hierarchical", "flat"])
impls = pytest.mark.parametrize("impl", ON_CPU)

# three segments of 32: positions 32.. are sink, 6 content tokens, landmark; 7 tokens, landmark; 7; 6, landmark, gate
LEAKY = Case(lengths=((26, 26, 13),))
SPOTS = {
    "sink": 32,
    "content": 35,
    "last_of_a_block": 38,
    "landmark": 39,
    "last_landmark": 62,
    "gate": 63,
    "open_block": 70,
}


def test_the_spots_are_what_they_are_called() -> None:
    kinds = LEAKY.layout.kinds.reshape(-1)
    expected = [Kind.SINK, Kind.CONTENT, Kind.CONTENT, Kind.LANDMARK, Kind.LANDMARK, Kind.GATE, Kind.CONTENT]
    assert kinds[list(SPOTS.values())].tolist() == expected


@impls
@modes
@pytest.mark.parametrize("spot", SPOTS)
def test_a_changed_token_changes_nothing_before_it(spot: str, mode: Mode, impl: Impl) -> None:
    tensors, _ = random_tensors(LEAKY)
    before = _out(tensors, LEAKY, mode, impl)
    position = SPOTS[spot]
    for tensor in tensors:
        tensor[:, :, position] += 3.0
    after = _out(tensors, LEAKY, mode, impl)
    assert torch.equal(after[:, :, :position], before[:, :, :position])
    # the test could not fail if nothing ever changed
    assert not torch.equal(after[:, :, position:], before[:, :, position:])


@impls
@modes
@pytest.mark.parametrize("position", [0, 20, 33, 39, 62, 63, 64, 75])
def test_gradients_of_the_future_are_exactly_zero(position: int, mode: Mode, impl: Impl) -> None:
    tensors, _ = random_tensors(LEAKY)
    grad = torch.zeros_like(tensors.q)
    grad[:, :, position] = 1.0
    result = run(tensors, LEAKY.layout, grad, mode=mode, impl=impl)
    for name in ("dk", "dv"):
        assert not result[name][:, :, position + 1 :].any(), name
        assert result["dv"][:, :, : position + 1].any()
    for name in ("dq", "dq_far"):
        others = torch.arange(result[name].shape[2]) != position
        assert not result[name][:, :, others].any(), name


@impls
@modes
def test_gradients_reach_all_of_the_past(mode: Mode, impl: Impl) -> None:
    tensors, _ = random_tensors(LEAKY)
    last = int((LEAKY.layout.kinds.reshape(-1) != Kind.PAD).nonzero()[0].max())
    grad = torch.zeros_like(tensors.q)
    grad[:, :, last] = 1.0
    result = run(tensors, LEAKY.layout, grad, mode=mode, impl=impl)
    content = at(LEAKY.layout, Kind.CONTENT)[0, 0, :, 0]
    assert result["dv"][0, :, content].all()
    assert result["dk"][0, :, content].all()
    gates = at(LEAKY.layout, Kind.GATE)[0, 0, :, 0]
    gates[last] = False
    assert bool(result["dk"][0, :, gates].any()) == (mode == "hierarchical")


@impls
@modes
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("filler", [float("nan"), float("inf"), 1e30])
def test_padding_does_not_spread(filler: float, case: Case, mode: Mode, impl: Impl) -> None:
    filled, grad = random_tensors(case, torch.float32, at_padding=filler)
    zeros, zero_grad = random_tensors(case, torch.float32, at_padding=0.0)
    actual = run(filled, case.layout, grad, mode=mode, impl=impl)
    expected = run(zeros, case.layout, zero_grad, mode=mode, impl=impl)
    for name, tensor in actual.items():
        assert torch.equal(tensor, expected[name]), name
        assert not tensor.masked_select(padding(case.layout)).any(), name


@impls
@modes
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_of_landmarks_and_gates_are_never_read(case: Case, mode: Mode, impl: Impl) -> None:
    tensors, grad = random_tensors(case)
    marks = at(case.layout, Kind.LANDMARK, Kind.GATE)
    before = run(tensors, case.layout, grad, mode=mode, impl=impl)
    changed = tensors._replace(v=tensors.v.masked_fill(marks, 1e6))
    after = run(changed, case.layout, grad, mode=mode, impl=impl)
    for name in before:
        assert torch.equal(after[name], before[name]), name
    assert not before["dv"].masked_select(marks).any()


@impls
@modes
def test_a_landmark_and_a_gate_ignore_themselves(mode: Mode, impl: Impl) -> None:
    tensors, _ = random_tensors(LEAKY)
    before = _out(tensors, LEAKY, mode, impl)
    for position in (SPOTS["landmark"], SPOTS["gate"]):
        changed = tensors._replace(k=tensors.k.clone())
        changed.k[:, :, position] += 3.0
        after = _out(changed, LEAKY, mode, impl)
        assert torch.equal(after[:, :, position], before[:, :, position])


def _out(tensors: Tensors, case: Case, mode: Mode, impl: Impl) -> Tensor:
    return landmark_attention(tensors.q, tensors.k, tensors.v, case.layout, mode=mode, q_far=tensors.q_far, impl=impl)
