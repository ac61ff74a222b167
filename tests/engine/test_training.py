"""Every option of a training does what its description says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.zoo.exported import export
from worker.engine.config import FinetuneConfig, TrainingConfig
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError, DivergedError, UntrainableError
from worker.engine.program import Program
from worker.engine.recovery.augment import augmented
from worker.engine.recovery.average import Average
from worker.engine.recovery.finetune import finetune
from worker.engine.recovery.schedule import rate
from worker.engine.recovery.setting import Setting
from worker.engine.recovery.twin import twin
from worker.engine.recovery.validation import Standing

IMAGE = (3, 6, 6)
HALF_INPUT = torch.zeros(2, 2, dtype=torch.bfloat16)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(6 * 16, 3)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu().flatten(1)))


def net(**options) -> Program:
    torch.manual_seed(0)
    return Program.from_exported(export(Net(**options).eval(), torch.zeros(2, *IMAGE)))


def images(count: int = 60, seed: int = 0) -> Rows:
    """Which third of the rows is bright."""
    draw = np.random.default_rng(seed)
    targets = draw.integers(0, 3, count)
    inputs = draw.normal(0, 0.5, (count, *IMAGE)).astype(np.float32)
    for row, target in zip(inputs, targets, strict=True):
        row[:, 2 * target : 2 * target + 2] += 1
    return Rows((inputs,), targets)


def weights(program: Program) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in program.module.state_dict().items()}


def tuned(rows: Rows | None = None, setting: Setting | None = None, **options):
    program = net()
    config = FinetuneConfig(**{"batch_size": 16, "epochs": 2, **options})
    finetune(program, config, rows or images(), setting or Setting(seed=0))
    return weights(program)


def equal(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    first = tuned()
    torch.rand(7)
    assert equal(first, tuned())
    assert not equal(first, tuned(setting=Setting(seed=1)))
    assert not equal(first, tuned(setting=Setting(seed=0, number=1)))


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "sgd"},
        {"schedule": "constant"},
        {"warmup": 0.5},
        {"gradient_clip": 1e-3, "optimizer": "sgd"},
        {"label_smoothing": 0.1},
        {"weight_decay": 0.1},
        {"ema": 0.9},
        {"precision": "bfloat16"},
        {"augment": ("flip",)},
        {"augment": ("crop",), "crop_padding": 1},
    ],
    ids=str,
)
def test_every_option_changes_the_weights_and_leaves_a_model_that_learned(changed):
    base = {"epochs": 10, "learning_rate": 3e-3, "warmup": 0.0, "optimizer": "adamw"}
    program, rows = net(), images()
    options = {**base, **changed}
    if options["optimizer"] == "sgd":
        options["learning_rate"] = 0.1 if "gradient_clip" not in options else 10
    finetune(program, FinetuneConfig(batch_size=16, **options), rows, Setting(seed=0))
    assert not equal(weights(program), tuned(**base))
    with torch.no_grad():
        output = program.run([torch.from_numpy(rows.inputs[0])])[0]
    assert float((output.argmax(1).numpy() == rows.targets).mean()) > 0.8


def test_sgd_by_hand():
    program = Program.from_exported(export(nn.Linear(2, 1, bias=False).eval(), torch.zeros(2, 2)))
    weight = program.module.get_parameter("weight")
    with torch.no_grad():
        weight.copy_(torch.tensor([[1.0, 2.0]]))
    # The output is 1 for both rows; the gradient of the squared error is (2, 0), whatever row.
    rows = Rows((np.array([[1, 0], [1, 0]], np.float32),), np.zeros((2, 1), np.float32))
    config = FinetuneConfig(
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.5,
        weight_decay=0.1,
        schedule="constant",
        batch_size=2,
    )
    finetune(program, config, rows, Setting(seed=0))
    # Gradient with decay (2.1, 0.2); with Nesterov momentum 1.5 times that in the first step.
    torch.testing.assert_close(weight.detach(), torch.tensor([[1 - 0.315, 2 - 0.03]]))


def test_biases_and_norms_do_not_decay():
    program = Program.from_exported(
        export(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).eval(), torch.zeros(2, 2))
    )
    before = weights(program)
    rows = Rows((np.zeros((4, 2), np.float32),), np.zeros((4, 2), np.float32))
    # So small that only the decay, which AdamW multiplies by it, could be seen.
    config = FinetuneConfig(learning_rate=1e-6, weight_decay=10, epochs=1, batch_size=4)
    finetune(program, replace(config, schedule="constant"), rows, Setting(seed=0))
    after = weights(program)
    for name in ("0.bias", "1.weight", "1.bias"):
        assert float((after[name] - before[name]).abs().max()) <= 1.1e-6
    torch.testing.assert_close(
        after["0.weight"], before["0.weight"] * (1 - 1e-5), rtol=1e-6, atol=0
    )


def test_warmup_by_hand():
    config = TrainingConfig(learning_rate=1.0, warmup=0.3)
    rates = [rate(config, step, 10) for step in range(10)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == pytest.approx([0.5 * (1 + np.cos(np.pi * k / 7)) for k in range(1, 7)])
    constant = replace(config, schedule="constant")
    assert [rate(constant, step, 10) for step in (2, 3, 9)] == pytest.approx([0.75, 1.0, 1.0])
    assert rate(replace(config, warmup=1.0), 9, 10) == pytest.approx(10 / 11)


def test_float_targets_cannot_be_smoothed():
    rows = Rows(images().inputs, np.zeros((60, 3), np.float32))
    with pytest.raises(DataMismatchError, match="regression has no classes") as caught:
        tuned(rows, label_smoothing=0.1)
    assert caught.value.pointer == "/label_smoothing"


def test_an_average_by_hand():
    program = Program.from_exported(export(nn.Linear(1, 1, bias=False).eval(), torch.zeros(2, 1)))
    weight = program.module.get_parameter("weight")
    with torch.no_grad():
        weight.fill_(1.0)
    rows = Rows((np.ones((4, 1), np.float32),), np.zeros((4, 1), np.float32))
    config = FinetuneConfig(
        optimizer="sgd", momentum=0, learning_rate=0.25, schedule="constant", batch_size=2, ema=0.15
    )
    finetune(program, config, rows, Setting(seed=0))
    # The weight is 1, then 1/2, then 1/4; decays are 1/10 and the smaller of 2/11 and 0.15.
    first = 0.1 * 1 + 0.9 * 0.5
    assert float(weight.detach()) == pytest.approx(0.15 * first + 0.85 * 0.25)


class TestBest:
    """What is kept is what was best on the rows held out."""

    def judged(self, **options):
        held_out = images(40, seed=5)
        setting = Setting(seed=0, validation=held_out)
        program = net()
        config = FinetuneConfig(**{"batch_size": 16, "epochs": 3, **options})
        finetune(program, config, images(), setting)
        return program

    def test_training_that_only_harms_keeps_what_it_began_with(self):
        learned = FinetuneConfig(batch_size=16, epochs=20, learning_rate=3e-3)
        program = net()
        finetune(program, learned, images(), Setting(seed=0))
        before = weights(program)
        wrong = images()
        wrong = Rows(wrong.inputs, (wrong.targets + 1) % 3)
        setting = Setting(seed=0, validation=images(40, seed=5))
        finetune(program, learned, wrong, setting)
        assert equal(weights(program), before)

    def test_without_rows_held_out_the_last_is_kept(self):
        assert equal(tuned(keep="best"), tuned(keep="last"))

    def test_patience_ends_the_training(self):
        seen = []
        setting = Setting(
            seed=0, validation=images(40, seed=5), on_progress=lambda *at: seen.append(at)
        )
        wrong = Rows(images().inputs, np.full(60, 0))
        program = net()
        finetune(program, FinetuneConfig(batch_size=16, epochs=20), images(), Setting(seed=0))
        seen.clear()
        config = FinetuneConfig(batch_size=20, epochs=9, learning_rate=0.1, patience=2)
        finetune(program, config, wrong, setting)
        assert seen[-1] == (6, 27)

    def test_an_average_is_what_is_measured_and_kept(self):
        program = self.judged(ema=0.9, epochs=6)
        assert not equal(weights(program), weights(self.judged(epochs=6)))

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (Standing(0.5, 9.0), Standing(0.4, 1.0)),
            (Standing(0.5, 1.0), Standing(0.5, 2.0)),
            (Standing(None, 1.0), Standing(None, 2.0)),
            (Standing(None, 1.0), Standing(None, float("nan"))),
        ],
    )
    def test_better_is_by_accuracy_and_then_by_loss(self, one, other):
        assert one.beats(other)
        assert not other.beats(one)
        assert not one.beats(one)


class TestAugment:
    images = torch.arange(4 * 2 * 3 * 3, dtype=torch.float32).view(4, 2, 3, 3)

    def changed(self, *names, seed=0, inputs=None, **options):
        config = FinetuneConfig(augment=names, **options)
        generator = torch.Generator().manual_seed(seed)
        return augmented(inputs or [self.images], config, generator)

    def test_flip_flips_some_rows_whole(self):
        (found,) = self.changed("flip")
        flipped = [
            torch.equal(row, own.flip(2)) for row, own in zip(found, self.images, strict=True)
        ]
        same = [torch.equal(row, own) for row, own in zip(found, self.images, strict=True)]
        assert [one or other for one, other in zip(flipped, same, strict=True)] == [True] * 4
        assert 0 < sum(flipped) < 4

    def test_crop_moves_each_row_by_its_own_and_pads_with_zeros(self):
        (found,) = self.changed("crop", crop_padding=1, seed=1)
        padded = functional.pad(self.images, (1, 1, 1, 1))
        places = []
        for row, own in zip(found, padded, strict=True):
            fits = [
                (y, x)
                for y in range(3)
                for x in range(3)
                if torch.equal(row, own[:, y : y + 3, x : x + 3])
            ]
            places += fits[:1]
        assert len(places) == 4
        assert len(set(places)) > 1

    def test_images_of_a_row_go_together_and_other_inputs_stay(self):
        other = torch.arange(4.0).view(4, 1)
        one, rest, two = self.changed(
            "flip", "crop", crop_padding=1, inputs=[self.images, other, self.images]
        )
        assert torch.equal(one, two)
        assert torch.equal(rest, other)

    def test_what_is_no_image_is_refused_with_its_shape(self):
        rows = Rows((np.zeros((8, 4), np.float32),), np.zeros(8, np.int64))
        program = Program.from_exported(export(nn.Linear(4, 2).eval(), torch.zeros(2, 4)))
        with pytest.raises(DataMismatchError, match=r"shape \(8, 4\)") as caught:
            finetune(program, FinetuneConfig(augment=("flip",)), rows, Setting(seed=0))
        assert caught.value.pointer == "/augment"

    def test_targets_with_a_place_for_each_pixel_are_refused(self):
        rows = Rows(images(8).inputs, np.zeros((8, 6, 6), np.int64))
        with pytest.raises(DataMismatchError, match="targets of shape"):
            tuned(rows, augment=("flip",))


class TestZeros:
    @pytest.mark.parametrize(
        "options",
        [
            {"optimizer": "sgd", "learning_rate": 0.1},
            {"ema": 0.9},
            {"ema": 0.5, "keep": "last"},
            {"precision": "bfloat16"},
            {"weight_decay": 0.1, "gradient_clip": 0.1},
        ],
        ids=str,
    )
    def test_zeros_stay_zero_with_every_option(self, options):
        program = net()
        weight = program.module.get_parameter("conv.weight")
        with torch.no_grad():
            weight[::2] = 0
        setting = Setting(seed=0, sparse={"conv.weight"}, validation=images(30, seed=3))
        finetune(program, FinetuneConfig(batch_size=16, epochs=3, **options), images(), setting)
        assert not weight[::2].any()
        assert weight[1::2].all()


class TestSpeed:
    def test_what_a_compiler_refuses_is_trained_without_it(self, monkeypatch):
        def refuse(*_, **__):
            def fail(*_, **__):
                raise RuntimeError("no compiler")

            return fail

        monkeypatch.setattr(torch, "compile", refuse)
        told = []
        setting = Setting(seed=0, warn=told.append)
        assert equal(tuned(setting=setting, compile=True), tuned())
        [warning] = told
        assert "torch.compile" in warning

    def test_what_bfloat16_cannot_do_is_trained_in_float32(self):
        class Picky(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.head = nn.Linear(108, 8), nn.Linear(8, 3)

            def forward(self, x):
                # Writing bfloat16 numbers by index into float32 ones is refused.
                table = torch.zeros(8, 2, device=x.device)
                made = self.one(x.flatten(1))
                table[torch.arange(8)] = made[:2].T
                return self.head(made + table.sum())

        program = Program.from_exported(
            torch.export.export(Picky().eval(), (torch.zeros(4, *IMAGE),))
        )
        told = []
        config = FinetuneConfig(precision="bfloat16", batch_size=4)
        finetune(program, config, images(), Setting(seed=0, warn=told.append))
        [warning] = told
        assert "bfloat16" in warning

    def test_weights_stay_in_float32_with_bfloat16(self):
        assert {each.dtype for each in tuned(precision="bfloat16").values()} == {
            torch.float32,
            torch.int64,
        }

    def test_a_model_that_asserts_its_dtypes_trains_in_bfloat16(self):
        class Casting(Net):
            def forward(self, x):
                return super().forward(x.to(torch.float32)).to(torch.float32)

        program = Program.from_exported(export(Casting().eval(), torch.zeros(2, *IMAGE)))
        told = []
        config = FinetuneConfig(precision="bfloat16")
        finetune(program, config, images(), Setting(seed=0, warn=told.append))
        assert told == []

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_compiled_and_not_learn_the_same(self):
        told = []
        setting = Setting(seed=0, warn=told.append)
        one = tuned(compile=True, optimizer="sgd", setting=setting)
        other = tuned(compile=False, optimizer="sgd")
        assert told == []
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
    @pytest.mark.parametrize("options", [{}, {"compile": True}, {"precision": "float32"}], ids=str)
    def test_a_gpu_trains_in_every_way(self, options):
        program, told = net().to("cuda"), []
        config = FinetuneConfig(epochs=10, learning_rate=3e-3, batch_size=16, **options)
        finetune(program, config, images(), Setting(seed=0, warn=told.append))
        rows = images()
        with torch.no_grad():
            output = program.run([torch.from_numpy(rows.inputs[0]).cuda()])[0].cpu()
        assert float((output.argmax(1).numpy() == rows.targets).mean()) > 0.8
        assert told == []


def test_a_model_that_overwrites_what_its_gradient_needs_is_told():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.head = nn.Linear(108, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.one(x.flatten(1)).exp()
            x[:, :4] += 1
            return self.head(x)

    program = Program.from_exported(export(Overwriting().eval(), torch.zeros(2, *IMAGE)))
    with pytest.raises(UntrainableError, match="in place"):
        finetune(program, FinetuneConfig(), images(), Setting(seed=0))


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd"}, {"precision": "bfloat16"}], ids=str)
def test_a_learning_rate_that_blows_up_is_named(options):
    with pytest.raises(DivergedError, match="learning_rate below 1e"):
        tuned(learning_rate=1e30, epochs=20, schedule="constant", **options)


def test_a_twin_trains_the_very_tensors_of_its_program():
    program = net()
    other = twin(program)
    assert other.graph is not program.graph
    for name, tensor in program.module.state_dict(keep_vars=True).items():
        assert other.module.state_dict(keep_vars=True)[name] is tensor


def test_an_average_of_halves_moves_by_less_than_a_half_can_tell():
    half = Program.from_exported(export(nn.Linear(2, 2).to(torch.bfloat16).eval(), HALF_INPUT))
    weight = half.module.get_parameter("weight")
    with torch.no_grad():
        weight.fill_(1.0)
    average = Average(half, 0.999)
    with torch.no_grad():
        weight.fill_(2.0)
    for step in range(20_000, 24_000):
        average.update(step)
    assert float(average.tensors["weight"].min()) > 1.9
    assert average.under_all_names(half)["weight"].dtype is torch.bfloat16


def test_targets_of_another_shape_choose_no_epoch():
    from worker.engine.config import DistillConfig
    from worker.engine.recovery.distill import distill

    rows = images()
    targets = np.zeros((len(rows), 1), np.int64)
    wrong = Rows(rows.inputs, targets)
    train, held_out = wrong.split(0.2, seed=0)
    program = net()
    with pytest.raises(DataMismatchError, match=r"\(12, 1\)"):
        distill(
            program, DistillConfig(epochs=1), train, program, Setting(seed=0, validation=held_out)
        )
