"""What was pruned comes back as a file of Keras, and gives there what the program gives."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.writers import models
from worker.engine.config import CastConfig, PruneConfig
from worker.engine.graph.coupling import couple
from worker.engine.load import load_program
from worker.engine.precision import cast
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import verify_cut
from worker.engine.readers.keras import read_h5, read_keras
from worker.engine.readers.keras.runtime import keras
from worker.engine.recovery.setting import Setting
from worker.engine.save import save_program
from worker.engine.writers.inexpressible import InexpressibleError
from worker.engine.writers.keras import run
from worker.engine.writers.keras import write as write_keras

# Keras's own warnings, about what its newer versions will do: of no concern to what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

# Loads files in Keras as a user has it, and runs them on inputs in .npz files beside them.
_OTHER_BACKENDS = [name for name in ("jax", "tensorflow") if find_spec(name) is not None]
_PLAIN = """
import sys
import numpy as np
import keras

for path in sys.argv[1:]:
    model = keras.saving.load_model(path + ".keras")
    with np.load(path + ".in.npz") as file:
        leaves = [file[name] for name in sorted(file)]
    inputs = leaves[0] if len(leaves) == 1 else dict(zip(["left", "right"], leaves))
    outputs = keras.tree.flatten(model(inputs, training=False))
    outputs = [keras.ops.convert_to_numpy(output) for output in outputs]
    np.savez(path + f".{keras.config.backend()}.npz", *outputs)
    print(path, keras.config.backend(), model.count_params())
"""


def pruned(source, **options):
    program = Program.from_exported(source.exported)
    coupling = couple(program)
    config = PruneConfig(**{"channel_ratio": 0.5, "scope": "local", **options})
    plan = decide(coupling, config, seed=0)
    smaller = cut(coupling, plan.keep)
    verify_cut(coupling, plan.keep, smaller, seed=0)
    return smaller


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every model, read, pruned by a half and written: original, program, path."""
    folder = tmp_path_factory.mktemp("written")
    keras().utils.set_random_seed(0)
    torch.manual_seed(0)
    found = {}
    for make in models.MODELS:
        name = make.__name__
        model = make()
        model.save(folder / f"{name}-original.keras")
        source = read_keras(folder / f"{name}-original.keras")
        program = pruned(source)
        path = folder / f"{name}.keras"
        write_keras(program, source.origin, path)
        leaves = program.example_leaves
        np.savez(folder / f"{name}.in.npz", *[leaf.numpy() for leaf in leaves])
        found[name] = (model, source, program, path)
    return found


def assert_same(found, expected):
    assert [tuple(each.shape) for each in found] == [tuple(each.shape) for each in expected]
    for one, other in zip(found, expected, strict=True):
        one, other = torch.as_tensor(one).double(), other.double()
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("make", models.MODELS, ids=lambda make: make.__name__)
@torch.no_grad()
def test_written_file_gives_what_the_program_gives(make, written):
    model, _, program, path = written[make.__name__]
    assert_same(run(path, [program.example_leaves]), program.run(program.example_leaves))
    smaller = keras().saving.load_model(path)
    assert smaller.count_params() < 0.75 * model.count_params()
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]


@pytest.mark.parametrize("backend", ["torch", *_OTHER_BACKENDS])
@torch.no_grad()
def test_written_files_load_in_a_new_process_on_any_backend(backend, written, tmp_path):
    stems = [str(path.with_suffix("")) for _, _, _, path in written.values()]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PLAIN, *stems],
        env={"KERAS_BACKEND": backend, "KERAS_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
    )
    for _, _, program, path in written.values():
        with np.load(f"{path.with_suffix('')}.{backend}.npz") as file:
            found = [torch.from_numpy(file[name]) for name in file]
        assert_same(found, program.run(program.example_leaves))


@torch.no_grad()
def test_nothing_pruned_gives_the_same_weights_back(written, tmp_path):
    for name in ("depthwise", "gru", "attention"):
        model, source, _, _ = written[name]
        write_keras(Program.from_exported(source.exported), source.origin, tmp_path / "same.keras")
        same = keras().saving.load_model(tmp_path / "same.keras")
        for one, other in zip(same.weights, model.weights, strict=True):
            assert torch.equal(one.value, other.value), one.path


def test_program_that_went_through_its_own_format_can_be_written(written, tmp_path):
    _, source, program, _ = written["cnn"]
    save_program(program, tmp_path / "model.pt2")
    loaded = Program.from_exported(load_program(tmp_path / "model.pt2"))
    write_keras(loaded, source.origin, tmp_path / "model.keras")
    assert (tmp_path / "model.keras").stat().st_size


def test_layers_keep_what_has_no_size(written):
    _, _, _, path = written["cnn"]
    by_name = {layer.name: layer for layer in keras().saving.load_model(path).layers}
    dropout = next(layer for name, layer in by_name.items() if name.startswith("dropout"))
    assert dropout.rate == 0.2


def test_layer_that_was_removed_is_named(written, tmp_path):
    _, source, program, _ = written["residual"]
    smaller = program.copy()
    name = source.origin.variables[2].names[0]
    owner, _, leaf = name.rpartition(".")
    delattr(smaller.module.get_submodule(owner), leaf)
    with pytest.raises(InexpressibleError, match=r"layer 'conv2d_\d+' was removed whole"):
        write_keras(smaller, source.origin, tmp_path / "model.keras")
    assert not (tmp_path / "model.keras").exists()


def test_sizes_that_a_graph_spells_out_cannot_be_said(tmp_path):
    library = keras()
    layers = library.layers
    x = layers.Input((6,))
    model = library.Model(x, layers.Dense(2, name="last")(layers.Dense(16)(x)[:, :6]))
    model.save(tmp_path / "model.keras")
    source = read_keras(tmp_path / "model.keras")
    with pytest.raises(InexpressibleError, match="layer 'last': its kernel would have the shape"):
        write_keras(pruned(source), source.origin, tmp_path / "smaller.keras")


def test_outputs_that_differ_are_not_delivered(written, tmp_path):
    _, source, program, _ = written["mlp"]
    other = program.copy()
    for node in other.graph.nodes:
        if node.target is torch.ops.aten.relu.default:
            node.target = torch.ops.aten.sigmoid.default
    other.module.recompile()
    with pytest.raises(InexpressibleError, match="other outputs than the program"):
        write_keras(other, source.origin, tmp_path / "model.keras")


def test_a_cast_is_the_reason(written, tmp_path):
    _, source, program, _ = written["cnn"]
    found = cast(program, CastConfig("float16"), None, Setting(seed=0))
    with pytest.raises(InexpressibleError, match="parts in float16"):
        write_keras(found.program, source.origin, tmp_path / "model.keras")


def test_heads_of_different_sizes_are_named(written, tmp_path):
    _, source, program, _ = written["attention"]
    other = program.copy()
    variable = next(v for v in source.origin.variables if v.path.endswith("value/kernel"))
    owner, _, leaf = variable.names[0].rpartition(".")
    holder = other.module.get_submodule(owner)
    kernel = getattr(holder, leaf)
    holder._parameters[leaf] = torch.nn.Parameter(kernel[:, :1])
    with pytest.raises(InexpressibleError, match="its heads are not all of one size"):
        write_keras(other, source.origin, tmp_path / "model.keras")


def test_model_of_the_older_format_is_written_as_the_newer_one(tmp_path):
    model = models.cnn()
    model.save(tmp_path / "model.h5")
    source = read_h5(tmp_path / "model.h5")
    program = pruned(source)
    write_keras(program, source.origin, tmp_path / "model.keras")
    with torch.no_grad():
        expected = program.run(program.example_leaves)
    assert_same(run(tmp_path / "model.keras", [program.example_leaves]), expected)


def test_writer_is_given_a_path_of_any_name(written, tmp_path):
    _, source, program, _ = written["mlp"]
    write_keras(program, source.origin, tmp_path / "artifact")
    assert Path(tmp_path / "artifact").read_bytes().startswith(b"PK")
