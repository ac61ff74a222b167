"""SavedModels written by hand, field by field: no TensorFlow is needed to make or to check them."""

import io
import tarfile
import zipfile
from pathlib import Path

from formats.protobuf import field_of, integer_of

DATA = Path(__file__).parent / "data"
FLOAT, INT64, TEXT = 1, 9, 7


def text(number, value):
    return field_of(number, value.encode())


def entry(key, value):
    """One row of a map, without the number of its field."""
    return text(1, key) + field_of(2, value)


def shape(*sizes):
    return b"".join(field_of(2, integer_of(1, size)) for size in sizes)


def tensor_info(name, dtype, *sizes):
    return text(1, name) + integer_of(2, dtype) + field_of(3, shape(*sizes))


def calling(name):
    """The attribute of a node that names a function."""
    return field_of(10, text(1, name))


def constant(*sizes):
    """The attribute of a node that is a constant of one number and a shape."""
    return field_of(8, integer_of(1, FLOAT), field_of(2, shape(*sizes)))


def node(op, name="", /, **attributes):
    parts = [text(1, name or op.lower()), text(2, op)]
    return b"".join([*parts, *(field_of(5, entry(key, each)) for key, each in attributes.items())])


def function(name, *nodes, **attributes):
    return b"".join(
        [
            field_of(1, text(1, name)),
            *(field_of(3, each) for each in nodes),
            *(field_of(5, entry(key, each)) for key, each in attributes.items()),
        ]
    )


def saved_object(kind, data=b"", /, **children):
    references = (integer_of(1, index) + text(2, name) for name, index in children.items())
    return b"".join([*(field_of(1, each) for each in references), field_of(kind, data)])


def variable(dtype, *sizes):
    return saved_object(7, integer_of(1, dtype) + field_of(2, shape(*sizes)))


USER, FUNCTION, BARE, CONSTANT = 4, 6, 8, 9


def saved_model(
    *,
    functions=(),
    nodes=(),
    objects=None,
    signature=None,
    tags=("serve",),
    signature_name="serving_default",
    bound=(3, 4),
):
    """Return the bytes of saved_model.pb: a dense layer, with what a test has in other places."""
    body = [node("MatMul"), node("ReadVariableOp"), node("Identity")]
    serve = function("serve", node("StatefulPartitionedCall", f=calling("body")))
    save = function("save", node("SaveV2"), node("ShardedFilename"), node("RestoreV2"))
    library = [serve, function("body", *body), save, *functions]
    if objects is None:
        objects = [
            saved_object(USER, signatures=1, weight=3, bias=4),
            saved_object(USER, serving_default=2),
            saved_object(BARE, text(1, "serve")),
            variable(FLOAT, 4, 3),
            variable(FLOAT, 3),
            variable(INT64, 2),
        ]
    if signature is None:
        signature = field_of(1, entry("x", tensor_info("x:0", FLOAT, -1, 4))) + field_of(
            2, entry("y", tensor_info("call:0", FLOAT, -1, 3))
        )
    packed = b"".join(integer_of(2, index) for index in bound)
    graph_nodes = [
        node("Placeholder"),
        node("StatefulPartitionedCall", "saving", f=calling("save")),
        node("NoOp"),
        *nodes,
    ]
    graph = b"".join(
        [
            *(field_of(1, each) for each in graph_nodes),
            field_of(2, *(field_of(1, each) for each in library)),
            field_of(4, integer_of(1, 2000)),
        ]
    )
    meta_graph = b"".join(
        [
            field_of(1, *(text(4, tag) for tag in tags), text(5, "2.21.0")),
            field_of(2, graph),
            field_of(3, text(1, "saver_filename:0")),
            field_of(5, entry(signature_name, signature)),
            field_of(
                7,
                *(field_of(1, each) for each in objects),
                field_of(2, entry("serve", packed)),
            )
            if objects
            else b"",
        ]
    )
    return integer_of(1, 1) + field_of(2, meta_graph)


def members(graph=None, *, data_bytes=76):
    return {
        "saved_model.pb": saved_model() if graph is None else graph,
        "variables/variables.index": b"index",
        "variables/variables.data-00000-of-00001": bytes(data_bytes),
    }


def zip_of(files, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def tar_of(files, path, *, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
