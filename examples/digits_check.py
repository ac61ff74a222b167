"""Load a compressed model as its user would, without the service, and measure it again.

``python examples/digits_check.py MODEL DATA`` prints what it found as JSON.
"""

import json
import sys

import numpy as np
import torch


def main(model: str, data: str) -> None:
    program = torch.export.load(model)  # noqa: TID251 (a user's program, on the user's own file)
    rows = np.load(data, allow_pickle=False)
    with torch.no_grad():
        predicted = program.module()(torch.from_numpy(rows["inputs"])).argmax(1)
    found = {
        "accuracy": float((predicted.numpy() == rows["targets"]).mean()),
        "parameters": sum(parameter.numel() for parameter in program.parameters()),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
