"""Programs that older versions of torch saved, kept beside this file (see its `data` folder)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from formats import inspect_model
from worker.engine.load import load_program

FOLDER = Path(__file__).parent / "data"
VERSIONS = sorted(path.name.split("-")[1] for path in FOLDER.glob("torch-*-mlp.pt2"))


def test_the_oldest_that_the_page_names_is_there():
    assert "2.9.1" in VERSIONS


@pytest.mark.parametrize("name", ["mlp", "cnn", "rnn", "transformer"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_program_of_an_older_torch_gives_what_it_gave_there(version, name):
    path = FOLDER / f"torch-{version}-{name}.pt2"
    assert inspect_model(path, "pt2").torch_version.startswith(version)
    program = load_program(path)
    args, kwargs = program.example_inputs
    with torch.no_grad():
        found = program.module()(*args, **kwargs)
        rows = program.module()(torch.cat([args[0], args[0]]))
    expected = np.load(FOLDER / f"torch-{version}.npz")[name]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert rows.shape[0] == 2 * len(expected)
