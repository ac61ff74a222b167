"""The messages of an ONNX model: which fields are looked at, and which may be there besides.

Source: onnx.proto of ONNX 1.23, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from formats.protobuf import Table

MODEL = Table(
    "ModelProto",
    integer={1: "ir_version"},
    one={7: "graph"},
    many={8: "opset_import", 25: "functions"},
    # Who made it, its version and text, training, and devices.
    ignored=(2, 3, 4, 5, 6, 14, 20, 26),
)
OPSET = Table("OperatorSetIdProto", one={1: "domain"}, integer={2: "version"})
GRAPH = Table(
    "GraphProto",
    one={2: "name"},
    many={
        1: "node",
        5: "initializer",
        11: "input",
        12: "output",
        15: "sparse_initializer",
    },
    # Text, shapes of values in between, and how they were quantized.
    ignored=(10, 13, 14, 16),
)
NODE = Table(
    "NodeProto",
    one={3: "name", 4: "op_type", 7: "domain", 8: "overload"},
    many={1: "input", 2: "output", 5: "attribute"},
    ignored=(6, 9, 10),
)
ATTRIBUTE = Table(
    "AttributeProto",
    integer={3: "i", 20: "type"},
    one={1: "name", 4: "s", 5: "t", 6: "g", 14: "tp", 21: "ref_attr_name", 22: "sparse_tensor"},
    many={
        9: "strings",
        10: "tensors",
        11: "graphs",
        15: "type_protos",
        23: "sparse_tensors",
    },
    counted={8: "ints"},
    fixed={2: "f", 7: "floats"},
    ignored=(13,),
)
FUNCTION = Table(
    "FunctionProto",
    one={1: "name", 10: "domain", 13: "overload"},
    many={
        4: "input",
        5: "output",
        6: "attribute",
        7: "node",
        9: "opset_import",
        11: "attribute_proto",
    },
    ignored=(8, 12, 14),
)
TENSOR = Table(
    "TensorProto",
    integer={2: "data_type", 14: "data_location"},
    integers={1: "dims"},
    one={3: "segment", 8: "name", 9: "raw_data"},
    many={6: "string_data", 13: "external_data"},
    counted={5: "int32_data", 7: "int64_data", 11: "uint64_data"},
    fixed={4: "float_data", 10: "double_data"},
    ignored=(12, 16),
)
ENTRY = Table("StringStringEntryProto", one={1: "key", 2: "value"})
VALUE = Table("ValueInfoProto", one={1: "name", 2: "type"}, ignored=(3, 4))
TYPE = Table(
    "TypeProto",
    one={
        1: "tensor_type",
        4: "sequence_type",
        5: "map_type",
        7: "opaque_type",
        8: "sparse_tensor_type",
        9: "optional_type",
    },
    ignored=(6,),
)
TENSOR_TYPE = Table("TypeProto.Tensor", integer={1: "elem_type"}, one={2: "shape"})
SHAPE = Table("TensorShapeProto", many={1: "dim"})
DIMENSION = Table(
    "TensorShapeProto.Dimension",
    integer={1: "dim_value"},
    one={2: "dim_param"},
    ignored=(3,),
)
