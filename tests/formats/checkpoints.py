"""Archives of weights, made by hand."""

import json
import struct
import zipfile


def safetensors(tensors, *, header=None, tail=b""):
    """A file of safetensors; `tensors` are (dtype, shape, bytes) by name."""
    described, body = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(body), len(body) + len(content)]
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        body += content
    text = json.dumps(described if header is None else header).encode()
    return struct.pack("<Q", len(text)) + text + body + tail


WEIGHT = {"weight": ("F32", [2, 3], bytes(24))}
RESNET = {"builder": "torchvision", "name": "resnet18"}


def write(path, **members):
    """A zip; names are written with a dot for each double underscore."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            content = json.dumps(content) if isinstance(content, dict | list) else content
            archive.writestr(name.replace("__", "."), content)
    return path
