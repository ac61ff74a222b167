"""Small ONNX models, and zips of them."""

import zipfile

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes, inputs, outputs, initializers=(), *, opsets=None, functions=()):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(initializers))
    imports = [helper.make_opsetid(*opset) for opset in (opsets or [("", 18)])]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions)


def linear():
    """Return x @ weight + bias, then the largest of each row."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    return model_of(
        [
            helper.make_node("MatMul", ["x", "weight"], ["h"], name="matmul"),
            helper.make_node("Add", ["h", "bias"], ["y"], name="add"),
        ],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 3])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.ones(3, np.float32), "bias"),
        ],
    )


def outside(tensor, location, *, offset=None, length=None, **more):
    """Say that a tensor's elements are in another file; returns them."""
    data = numpy_helper.to_array(tensor).tobytes()
    for name in ("raw_data", "float_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": length, **more}
    for key, entry in entries.items():
        if entry is not None:
            tensor.external_data.add(key=key, value=str(entry))
    return data


def external(location="weights.bin", **places):
    """Return the linear model, its weight in another file, and the file's bytes."""
    model = linear()
    data = outside(model.graph.initializer[0], location, **places)
    return model, data


def save(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def zip_of(members, path, *, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            content = data if isinstance(data, bytes) else data.SerializeToString()
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return path
