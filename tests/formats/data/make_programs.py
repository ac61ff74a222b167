"""Save small programs with the installed version of torch: ``python make_programs.py FOLDER``.

Needs torch and numpy and nothing else, so that an old version in an environment of its own can run
it. Writes ``torch-VERSION-NAME.pt2``, and ``torch-VERSION.npz`` with what each program gives on its
example inputs.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.block(self.embedding(ids)).mean(1))


def programs():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    cnn = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * 9, 3),
    )  # fmt: skip
    yield "mlp", mlp, torch.randn(2, 5)
    yield "cnn", cnn, torch.randn(2, 1, 8, 8)
    yield "rnn", Recurrent(), torch.randn(2, 6, 3)
    yield "transformer", Attention(), torch.randint(0, 11, (2, 6))


def main(folder):
    version = torch.__version__.partition("+")[0]
    outputs = {}
    for name, module, example in programs():
        batch = torch.export.Dim("batch", max=64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, folder / f"torch-{version}-{name}.pt2")
        with torch.no_grad():
            outputs[name] = module.eval()(example).numpy()
    np.savez(folder / f"torch-{version}.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
