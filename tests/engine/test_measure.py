"""Quality against numbers by hand, batches of every size, latency of both in turn."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.zoo.exported import export
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError, NotFiniteError
from worker.engine.measure.latency import latency
from worker.engine.measure.quality import quality
from worker.engine.program import Program


def _nothing(done: int, total: int) -> None:
    """Nobody watches."""


class Scaled(nn.Module):
    """Returns its input, times a weight: what it predicts is plain to see."""

    def __init__(self, weights: list[float]):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, x):
        return x * self.weights


def _program(*weights: float) -> Program:
    return Program.from_exported(export(Scaled(list(weights)), torch.ones(2, len(weights))))


def _static(rows: int) -> Program:
    exported = torch.export.export(Scaled([1.0, 1.0]), (torch.ones(rows, 2),))
    return Program.from_exported(exported)


LOGITS = np.array([[2, 0], [0, 1], [3, 1], [1, 2], [0, 5]], np.float32)


def test_quality_is_what_a_reader_computes_by_hand():
    rows = Rows((LOGITS,), np.array([0, 1, 1, 1, 0]))
    original, flipped = _program(1.0, 1.0), _program(1.0, 0.1)
    found = quality(flipped, original, rows, batch_size=2, on_batch=_nothing)
    # With the second logit at a tenth: classes 0 1 0 0 1, the original's 0 1 0 1 1.
    assert found["row_count"] == 5
    assert found["accuracy"] == pytest.approx(2 / 5)
    assert found["agreement"] == pytest.approx(4 / 5)
    assert found["output_mse"] == pytest.approx(float(np.square(0.9 * LOGITS[:, 1]).sum()) / 10)
    scaled = torch.from_numpy(LOGITS * np.array([1, 0.1], np.float32))
    expected = nn.functional.cross_entropy(scaled, torch.from_numpy(rows.targets))
    assert found["loss"] == pytest.approx(float(expected))


def test_the_original_agrees_with_itself():
    rows = Rows((LOGITS,), np.array([0, 1, 1, 1, 0]))
    original = _program(1.0, 1.0)
    found = quality(original, original, rows, batch_size=64, on_batch=_nothing)
    assert (found["agreement"], found["output_mse"]) == (1.0, 0.0)


def test_float_targets_give_a_squared_error_and_no_accuracy():
    rows = Rows((LOGITS,), LOGITS + 1)
    program = _program(1.0, 1.0)
    found = quality(program, program, rows, batch_size=3, on_batch=_nothing)
    assert found["loss"] == pytest.approx(1.0)
    assert found["accuracy"] is None
    assert found["agreement"] is None


def test_without_targets_only_the_outputs_are_compared():
    rows = Rows((LOGITS,), None)
    found = quality(_program(1.0, 1.0), _program(2.0, 2.0), rows, batch_size=3, on_batch=_nothing)
    assert found["loss"] is None
    assert found["output_mse"] > 0


def test_a_masked_class_is_no_difference_and_no_error():
    rows = Rows((LOGITS,), np.array([0, 0, 0, 0, 0]))
    program = _program(1.0, float("-inf"))
    kept = Rows((np.abs(LOGITS) + 1,), rows.targets)
    found = quality(program, program.copy(), kept, batch_size=2, on_batch=_nothing)
    assert found["output_mse"] == 0.0
    assert found["accuracy"] == 1.0


def test_nan_from_the_test_data_is_told():
    rows = Rows((LOGITS,), np.array([0, 1, 1, 1, 0]))
    program = _program(float("nan"), 1.0)
    with pytest.raises(NotFiniteError, match="check the data for values far"):
        quality(program, program.copy(), rows, batch_size=2, on_batch=_nothing)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
def test_a_fixed_number_of_rows_is_filled_up_and_the_padding_not_counted(size):
    rows = Rows((LOGITS,), np.array([0, 1, 1, 1, 0]))
    program = _static(3)
    found = quality(program, program, rows, batch_size=size, on_batch=_nothing)
    assert found["row_count"] == 5
    assert found["accuracy"] == pytest.approx(3 / 5)


def test_batches_are_as_many_as_announced():
    rows = Rows((LOGITS,), None)
    for program, size in ((_program(1.0, 1.0), 2), (_static(3), 1), (_program(1.0, 1.0), 1000)):
        batches = list(rows.batches(program, size))
        assert len(batches) == rows.batch_count(program, size)
        assert sum(batch.count for batch in batches) == 5


def test_several_inputs_are_taken_in_the_order_of_their_numbers(tmp_path):
    np.savez(
        tmp_path / "data.npz",
        **{f"inputs_{at}": np.full((2, 2), at, np.float32) for at in range(11)},
    )

    class Eleven(nn.Module):
        def forward(self, *inputs):
            return torch.stack(inputs).sum(0)

    exported = torch.export.export(Eleven(), tuple(torch.zeros(2, 2) for _ in range(11)))
    rows = Rows.read(tmp_path / "data.npz", Program.from_exported(exported))
    assert [int(array[0, 0]) for array in rows.inputs] == list(range(11))


def test_another_number_of_inputs_is_refused_with_both(tmp_path):
    np.savez(tmp_path / "data.npz", inputs_0=LOGITS, inputs_1=LOGITS)
    with pytest.raises(DataMismatchError, match="2 inputs and the model takes 1"):
        Rows.read(tmp_path / "data.npz", _program(1.0, 1.0))


def test_an_input_that_cannot_be_fed_rows_is_refused(tmp_path):
    class Product(nn.Module):
        def forward(self, x, matrix):
            return x @ matrix

    shapes = ({0: torch.export.Dim("batch", max=64)}, None)
    exported = torch.export.export(
        Product(), (torch.ones(2, 2), torch.ones(2, 2)), dynamic_shapes=shapes
    )
    program = Program.from_exported(exported)
    np.savez(tmp_path / "data.npz", inputs_0=LOGITS, inputs_1=LOGITS)
    with pytest.raises(DataMismatchError, match="input 1 of the model takes 2 rows"):
        Rows.read(tmp_path / "data.npz", program)
    # Nor does a measurement give it other rows, though it has as many as the batch.
    found = latency(program, program, batch_size=7, rounds=1, on_round=_nothing)
    assert found.batch_size == 7


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 1), (5,)])
def test_rows_of_another_shape_are_refused_with_both(tmp_path, shape):
    np.savez(tmp_path / "data.npz", inputs=np.zeros(shape, np.float32))
    with pytest.raises(DataMismatchError, match=r"example is float32 of shape \(2, 2\)"):
        Rows.read(tmp_path / "data.npz", _program(1.0, 1.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int8, np.int32, np.uint64])
def test_class_numbers_of_any_integer_type_count(dtype):
    rows = Rows((LOGITS,), np.array([0, 1, 1, 1, 0], dtype))
    program = _program(1.0, 1.0)
    found = quality(program, program, rows, batch_size=2, on_batch=_nothing)
    assert found["accuracy"] == pytest.approx(3 / 5)


def test_tokens_outside_of_the_vocabulary_are_the_datas_fault():
    program = Program.from_exported(
        export(nn.Embedding(3, 2), torch.zeros(2, 4, dtype=torch.int64))
    )
    rows = Rows((np.full((2, 4), 3),), None)
    with pytest.raises(DataMismatchError, match="within the vocabulary"):
        quality(program, program, rows, batch_size=2, on_batch=_nothing)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda x: x.sum(), "a row for each row"),
        (lambda x: x.sum(0), "a row for each row"),
        (lambda x: len(x.shape), "output is 0, and the model has 0 outputs"),
    ],
    ids=["one", "few", "none"],
)
def test_an_output_without_rows_is_told(returned, said):
    class Returning(nn.Module):
        def forward(self, x):
            return returned(x)

    program = Program.from_exported(export(Returning(), torch.ones(2, 2)))
    with pytest.raises(DataMismatchError, match=said):
        quality(program, program, Rows((LOGITS,), None), batch_size=5, on_batch=_nothing)


def test_each_round_times_both_and_warm_up_is_not_counted():
    seen = []
    found = latency(
        _program(1.0, 1.0),
        _program(2.0, 2.0),
        batch_size=7,
        rounds=4,
        on_round=lambda done, total: seen.append((done, total)),
    )
    assert len(found.original_ms) == len(found.compressed_ms) == 4
    assert found.batch_size == 7
    assert found.speedup > 0
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_latency_of_a_program_with_a_fixed_batch_uses_that():
    found = latency(_static(3), _static(3), batch_size=7, rounds=1, on_round=_nothing)
    assert found.batch_size == 3


def test_latency_of_a_program_whose_inputs_have_no_rows():
    class Doubled(nn.Module):
        def forward(self, x):
            return x * 2

    program = Program.from_exported(torch.export.export(Doubled(), (torch.tensor(2.0),)))
    found = latency(program, program, batch_size=7, rounds=1, on_round=_nothing)
    assert found.batch_size == 1
