"""Run attacks on Keras as it is, each in the order given; the markers tell which of them worked.

Usage: ``python tests/attacks/keras_prove.py FILE...``, in a process and folder of its own, with
``KERAS_BACKEND=torch``: it does run the attacks' code. A file called ``safe...`` is read in safe
mode.
"""

import contextlib
import logging
import os
import sys
import warnings

import keras
import numpy as np


def run(mode: str, path: str) -> None:
    model = keras.saving.load_model(path, safe_mode=mode == "safe", compile=True)
    model(np.zeros((1, 3), np.float32))


if __name__ == "__main__":
    logging.disable()
    warnings.simplefilter("ignore")
    verbose = "VERBOSE" in os.environ
    for argument in sys.argv[1:]:
        # Most attacks break the model that they ride on, after they have run.
        with contextlib.nullcontext() if verbose else contextlib.suppress(Exception):
            run(*argument.split(":", 1))
