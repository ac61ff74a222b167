"""Run attacks on TensorFlow as it is: read each model, call its signature, and convert it.

Usage: ``python tests/attacks/prove_saved_model.py FOLDER...``, in a process and folder of its own:
it does run the attacks' code. Prints one line of JSON for each: how far the marker, or the secret,
had got by then.
"""

import contextlib
import json
import logging
import sys
from pathlib import Path

MARKER, SECRET = "planted_by_the_attacks", "secret_of_the_attacks"
SECRET_TEXT = "the secret of somebody else"


def run(folder: str) -> dict[str, bool]:
    import tensorflow as tf

    marker = Path(MARKER)
    marker.unlink(missing_ok=True)
    found = {"on_load": False, "on_call": False, "leaks": False}
    with contextlib.suppress(Exception):
        model = tf.saved_model.load(folder)
        found["on_load"] = marker.exists()
        answer = model.signatures["serving_default"](x=tf.ones([1, 2]))["y"].numpy()
        found["leaks"] = bytes(answer.ravel().astype("uint8")) == SECRET_TEXT.encode()
    found["on_call"] = marker.exists()
    return found


if __name__ == "__main__":
    logging.disable()
    Path(SECRET).write_text(SECRET_TEXT, encoding="utf-8")
    for name in sys.argv[1:]:
        sys.stdout.write(json.dumps(run(name)) + "\n")
