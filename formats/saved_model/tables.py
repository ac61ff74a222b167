"""The messages of a SavedModel: which fields are looked at, and which may be there besides.

Source: tensorflow/core/protobuf/{saved_model,meta_graph,saved_object_graph}.proto and
tensorflow/core/framework/*.proto of TensorFlow 2.21, https://github.com/tensorflow/tensorflow
"""

from formats.protobuf import Table

SAVED_MODEL = Table("SavedModel", integer={1: "schema_version"}, many={2: "meta_graphs"})
META_GRAPH = Table(
    "MetaGraphDef",
    one={1: "meta_info_def", 2: "graph_def", 7: "object_graph_def"},
    many={5: "signature_def"},
    # What saves and restores outside of the objects, collections, and files that belong to them.
    ignored=(3, 4, 6),
)
META_INFO = Table(
    "MetaInfoDef",
    one={5: "tensorflow_version"},
    many={4: "tags"},
    integer={7: "stripped_default_attrs"},
    ignored=(1, 2, 3, 6, 8),
)
GRAPH = Table("GraphDef", one={2: "library", 4: "versions"}, many={1: "node"}, ignored=(3, 5))
# Gradients are not kept: nothing is trained in TensorFlow.
LIBRARY = Table("FunctionDefLibrary", many={1: "function"}, ignored=(2, 3))
FUNCTION = Table(
    "FunctionDef",
    one={1: "signature"},
    many={3: "node_def", 4: "ret", 5: "attr", 6: "control_ret", 7: "arg_attr"},
    ignored=(8,),
)
FUNCTION_SIGNATURE = Table(
    "OpDef",
    one={1: "name"},
    many={2: "input_arg", 3: "output_arg", 4: "attr", 20: "control_output"},
    ignored=(5, 6, 8, 16, 17, 18, 19, 21),
)
NODE = Table(
    "NodeDef",
    one={1: "name", 2: "op", 4: "device"},
    many={3: "input", 5: "attr"},
    ignored=(6, 7),
)
ENTRY = Table("MapEntry", one={1: "key", 2: "value"})
NUMBERED_ENTRY = Table("MapEntry", integer={1: "key"}, one={2: "value"})
ATTRIBUTE = Table(
    "AttrValue",
    integer={3: "i", 5: "b", 6: "type"},
    fixed={4: "f"},
    one={1: "list", 2: "s", 7: "shape", 8: "tensor", 9: "placeholder", 10: "func"},
)
ATTRIBUTE_LIST = Table(
    "AttrValue.ListValue",
    many={2: "s", 7: "shape", 8: "tensor", 9: "func"},
    counted={3: "i", 5: "b", 6: "type"},
    fixed={4: "f"},
)
NAMED_FUNCTION = Table("NameAttrList", one={1: "name"}, many={2: "attr"})
TENSOR = Table(
    "TensorProto",
    integer={1: "dtype"},
    one={2: "tensor_shape"},
    # The elements, by their kinds.
    ignored=(3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18),
    many={14: "resource_handle_val", 15: "variant_val"},
)
SHAPE = Table("TensorShapeProto", integer={3: "unknown_rank"}, many={2: "dim"})
DIMENSION = Table("TensorShapeProto.Dim", integer={1: "size"}, ignored=(2,))
SIGNATURE = Table(
    "SignatureDef", many={1: "inputs", 2: "outputs"}, one={3: "method_name"}, ignored=(4,)
)
TENSOR_INFO = Table(
    "TensorInfo",
    integer={2: "dtype"},
    one={1: "name", 3: "tensor_shape", 4: "coo_sparse", 5: "composite_tensor"},
)
OBJECTS = Table("SavedObjectGraph", many={1: "nodes", 2: "concrete_functions"})
OBJECT = Table(
    "SavedObject",
    one={
        4: "user_object",
        5: "asset",
        6: "function",
        7: "variable",
        8: "bare_concrete_function",
        9: "constant",
        10: "resource",
        12: "captured_tensor",
        13: "registered_name",
        14: "serialized_user_proto",
        16: "registered_saver",
    },
    many={1: "children", 3: "slot_variables", 11: "saveable_objects", 15: "dependencies"},
)
REFERENCE = Table("ObjectReference", integer={1: "node_id"}, one={2: "local_name"})
VARIABLE = Table(
    "SavedVariable",
    integer={1: "dtype", 3: "trainable"},
    one={2: "shape", 6: "name"},
    ignored=(4, 5, 7, 8),
)
OBJECT_FUNCTION = Table("SavedFunction", many={1: "concrete_functions"}, ignored=(2,))
BARE_FUNCTION = Table(
    "SavedBareConcreteFunction", one={1: "concrete_function_name"}, ignored=(2, 3, 4)
)
CAPTURED = Table("CapturedTensor", one={1: "name", 2: "concrete_function"})
CONSTANT = Table("SavedConstant", one={1: "operation"})
BOUND = Table("SavedConcreteFunction", integers={2: "bound_inputs"}, ignored=(3, 4))
