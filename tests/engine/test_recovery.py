"""Training and calibrating exported programs, whose mode is written into their graph."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.zoo.exported import export
from worker.engine.config import FinetuneConfig, RecalibrateConfig
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError
from worker.engine.program import Program
from worker.engine.recovery.finetune import finetune
from worker.engine.recovery.modes import training, training_calls
from worker.engine.recovery.recalibrate import recalibrate
from worker.engine.recovery.setting import Setting


def _nothing(done: int, total: int) -> None:
    """Nobody watches."""


def _rows(count: int = 96, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    inputs = draw.normal(3.0, 2.0, (count, 4)).astype(np.float32)
    return Rows((inputs,), (inputs.sum(1) > 12).astype(np.int64))


def _program(*, dropout: float = 0.0) -> Program:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.BatchNorm1d(4), nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2)
    )
    return Program.from_exported(export(module.eval(), torch.zeros(2, 4)))


def test_recalibration_sets_statistics_to_those_of_the_data_and_changes_no_weight():
    program, rows = _program(), _rows()
    weights = {name: p.clone() for name, p in program.module.named_parameters()}
    config = RecalibrateConfig(sample_count=96, batch_size=96)
    recalibrate(program, config, rows, seed=0, on_progress=_nothing)
    inputs = torch.from_numpy(rows.inputs[0])
    torch.testing.assert_close(program.module.get_buffer("0.running_mean"), inputs.mean(0))
    torch.testing.assert_close(program.module.get_buffer("0.running_var"), inputs.var(0))
    for name, parameter in program.module.named_parameters():
        assert torch.equal(parameter, weights[name])


def test_recalibration_averages_over_batches_of_equal_size():
    program, rows = _program(), _rows(100)
    config = RecalibrateConfig(sample_count=64, batch_size=16)
    recalibrate(program, config, rows, seed=5, on_progress=_nothing)
    order = np.random.default_rng(5).permutation(100)[:64]
    chosen = torch.from_numpy(rows.inputs[0][order])
    torch.testing.assert_close(program.module.get_buffer("0.running_mean"), chosen.mean(0))


def test_a_program_without_batch_norms_is_left_alone():
    program = Program.from_exported(export(nn.Linear(4, 2).eval(), torch.zeros(2, 4)))
    recalibrate(program, RecalibrateConfig(), _rows(), seed=0, on_progress=_nothing)


def test_fine_tuning_learns():
    program, rows = _program(), _rows(256)

    def accuracy() -> float:
        with torch.no_grad():
            output = program.run([torch.from_numpy(rows.inputs[0])])[0]
        return float((output.argmax(1).numpy() == rows.targets).mean())

    config = FinetuneConfig(epochs=20, learning_rate=1e-2, batch_size=32)
    finetune(program, config, rows, Setting(seed=0))
    assert accuracy() > 0.9


def test_fine_tuning_moves_the_batch_norm_statistics_and_leaves_evaluation_mode():
    program = _program(dropout=0.5)
    before = program.module.get_buffer("0.running_mean").clone()
    finetune(program, FinetuneConfig(), _rows(), Setting(seed=0))
    assert not torch.equal(program.module.get_buffer("0.running_mean"), before)
    with torch.no_grad():
        row = [torch.ones(2, 4)]
        assert torch.equal(program.run(row)[0], program.run(row)[0])


def test_dropout_drops_in_training_and_not_after():
    program = _program(dropout=0.9)
    row = [torch.randn(4, 4)]
    with torch.no_grad():
        quiet = program.run(row)[0]
        with training(program.module):
            assert not torch.equal(program.run(row)[0], program.run(row)[0])
        # The batch norm has seen batches meanwhile, and dropout is silent again.
        assert torch.equal(program.run(row)[0], program.run(row)[0])
        assert quiet.shape == (4, 2)


def test_the_mode_is_set_back_when_training_fails():
    program = _program(dropout=0.9)
    with pytest.raises(RuntimeError, match="stop"), training(program.module):
        raise RuntimeError("stop")
    with torch.no_grad():
        row = [torch.randn(4, 4)]
        assert torch.equal(program.run(row)[0], program.run(row)[0])


def _static(module: nn.Module, rows: int) -> Program:
    return Program.from_exported(torch.export.export(module.eval(), (torch.zeros(rows, 4),)))


@pytest.mark.parametrize(("rows", "batches"), [(1, 8), (3, 2), (32, 1)])
def test_the_schedule_ends_with_the_last_batch_however_many_rows_a_call_takes(
    rows, batches, monkeypatch
):
    rates = []

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    config = FinetuneConfig(epochs=2, learning_rate=1.0, batch_size=64)
    program = _static(nn.Linear(4, 2), rows)
    finetune(program, config, _rows(8), Setting(seed=0))
    steps = np.arange(2 * batches)
    assert rates == pytest.approx(0.5 * (1 + np.cos(np.pi * steps / (2 * batches))))


def test_recalibration_announces_the_batches_that_a_fixed_number_of_rows_makes():
    seen = []

    def watch(done: int, total: int) -> None:
        seen.append((done, total))

    recalibrate(
        _static(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), 3),
        RecalibrateConfig(batch_size=64),
        _rows(8),
        seed=0,
        on_progress=watch,
    )
    assert seen == [(1, 2), (2, 2)]


def test_a_batch_norm_that_sees_one_value_is_told_and_not_delivered():
    with pytest.raises(DataMismatchError, match="no variance in one value"):
        recalibrate(_program(), RecalibrateConfig(), _rows(1), seed=0, on_progress=_nothing)
    with pytest.raises(DataMismatchError, match="no variance in one value"):
        finetune(_program(), FinetuneConfig(), _rows(1), Setting(seed=0))


def test_a_program_without_gradients_cannot_be_fine_tuned():
    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    program = Program.from_exported(export(Detached(4, 2), torch.zeros(2, 4)))
    with pytest.raises(DataMismatchError, match="no gradient"):
        finetune(program, FinetuneConfig(), _rows(), Setting(seed=0))


def test_a_model_exported_for_training_is_noticed_where_it_matters():
    def calls(module: nn.Module) -> list[str]:
        program = Program.from_exported(export(module.train(), torch.zeros(2, 4)))
        return [str(node.target) for node in training_calls(program.module)]

    assert calls(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.0))) == ["aten.batch_norm.default"]
    assert calls(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))) == ["aten.dropout.default"]
    assert calls(nn.BatchNorm1d(4, track_running_stats=False)) == []
    assert training_calls(_program(dropout=0.5).module) == []
