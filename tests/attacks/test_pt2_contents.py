"""What no honest program holds, whether or not an attack is known that uses it."""

import io
import json
import pickle
import struct
import zipfile

import pytest
import torch

from formats.errors import ArchiveTooLarge, FormatError, UnsafeFile, UnsupportedProgram
from formats.pt2 import inspect_pt2, open_pt2
from tests.attacks.exploits import (
    CONSTANTS_CONFIG,
    EXAMPLES,
    PROGRAM,
    WEIGHTS_CONFIG,
    edit_json,
    graph_of,
    read_members,
    rename,
    write_members,
)


@pytest.fixture
def refusal(members, tmp_path):
    """Write the changed members and return the error that the check raises."""

    def check() -> FormatError:
        with pytest.raises(FormatError) as error:
            inspect_pt2(write_members(members, tmp_path / "changed.pt2"))
        return error.value

    return check


def set_size(members, expression):
    def change(document):
        size = graph_of(document)["tensor_values"]["x"]["sizes"][0]
        size["as_expr"]["expr_str"] = expression

    edit_json(members, PROGRAM, change)


@pytest.mark.parametrize(
    "expression",
    [
        "os.system('id')",
        "().__class__",
        "(lambda: 0)()",
        "[x for x in (1,)]",
        "Symbol('s0').__class__",
        "Symbol('s0, __import__')",
        "Symbol('s0', integer=print)",
        "Symbol(str(open('x')))",
        "Symbol('s99999999999')",
        "getattr(s0, 'x')",
        "Lambda(s0, s0)",
        "exec('1')",
        "Function('f')(s0)",
        "factorial(Integer(99999))",
        "9**9**9",
        "Pow(Integer(9), Integer(999999999))",
        "Pow(Pow(Pow(Integer(9), Integer(16)), Integer(16)), Integer(16))",
        "PowByNatural(Integer(2), Symbol('s0'))",
        "LShift(Integer(1), Integer(99999999))",
        "Float('1e99999999', precision=53)",
        "Float('1.0', precision=99999999)",
        f"Integer({10**30})",
        "s0 if s0 else s1",
        "s0 and s1",
        "(s0 := 1)",
        "f'{s0}'",
        "s0!",
        "s0\n__import__('os')",
        "Max(" * 40 + "s0" + ")" * 40,
        "-" * 100 + "s0",
        "s0 + " * 900 + "s0",
        "\uff530",
        "",
    ],
)
def test_size_that_torch_would_not_write_is_refused(expression, members, refusal):
    set_size(members, expression)
    assert isinstance(refusal(), UnsafeFile)


@pytest.mark.parametrize(
    "guard",
    [
        "__import__('os')",
        "torch.os.system('id')",
        "L['x'].__class__",
        "L['x'].size().__class__",
        "L['x'].tolist()[0]",
        "L.x",
        "L['x'](1)",
        "math.__loader__",
        "math.factorial(9999999)",
        "2**9999999 > 1",
        "exec('1')",
        "max(key=exec)",
        "L['x'].size()[exec('1')]",
        "(lambda: 1)()",
        "L['x'].size()[0] > 1\nimport os",
        "L['x'].size()[0] > 1 # ",
        "L['a\\'b'].size()[0] > 1",
        "L['a\"b'].size()[0] > 1",
    ],
)
def test_guard_that_reaches_for_more_than_sizes_is_refused(guard, members, refusal):
    edit_json(members, PROGRAM, lambda document: document.update(guards_code=[guard]))
    assert isinstance(refusal(), UnsafeFile)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("torch.hub.load", UnsafeFile),
        ("torch.load", UnsafeFile),
        ("torch.ops.load_library", UnsafeFile),
        ("torch.ops.aten.add.__class__", UnsafeFile),
        ("torch.ops.aten.add.overloads", UnsafeFile),
        ("torch.ops.aten.add.op", UnsafeFile),
        ("torch.ops.aten.add", UnsafeFile),
        ("torch.ops.aten.__class__.default", UnsupportedProgram),
        ("torch.ops.aten.save.default", UnsupportedProgram),
        ("torch.ops.aten.from_file.default", UnsupportedProgram),
        ("torch.ops.aten._sparse_coo_tensor_unsafe.default", UnsupportedProgram),
        ("torch.ops.my_library.my_op.default", UnsupportedProgram),
        ("torch.ops.higher_order.call_torchbind", UnsafeFile),
        ("torch.ops.higher_order.triton_kernel_wrapper_functional", UnsafeFile),
        ("_operator.attrgetter", UnsafeFile),
        ("_operator.call", UnsafeFile),
        ("math.__loader__.load_module", UnsafeFile),
        ("torch.sym_max.__globals__", UnsafeFile),
        ("#ext:name", UnsafeFile),
        ("builtins.exec", UnsafeFile),
        ("", UnsafeFile),
    ],
)
@pytest.mark.parametrize("place", ["node", "argument"])
def test_operator_that_is_not_on_the_list_is_refused(place, target, error, members, refusal):
    def change(document):
        node = graph_of(document)["nodes"][0]
        if place == "node":
            node["target"] = target
        else:
            node["inputs"][0]["arg"] = {"as_operator": target}

    edit_json(members, PROGRAM, change)
    assert isinstance(refusal(), error)


@pytest.mark.parametrize(
    "name", ["a b", "a;b", "a.b", "a\nb", "a=1", "*a", "1a", "", "__class__", "é", "a" * 2000]
)
@pytest.mark.parametrize("old", ["x", "linear"])
def test_name_that_is_no_identifier_is_refused(old, name, members, refusal):
    edit_json(members, PROGRAM, lambda document: rename(document["graph_module"], old, name))
    assert isinstance(refusal(), UnsafeFile)


@pytest.mark.parametrize("name", ["a..b", ".a", "a.__class__.b", '"', "a\nb", "a'b", ""])
def test_parameter_whose_name_is_no_path_is_refused(name, members, refusal):
    edit_json(
        members, PROGRAM, lambda document: rename(document["graph_module"], "linear.weight", name)
    )
    assert isinstance(refusal(), UnsafeFile)


def test_argument_name_with_a_default_value_is_refused(members, refusal):
    def change(document):
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"][0] = "x=print()"

    edit_json(members, PROGRAM, change)
    assert "forward_arg_names[0]" in str(refusal())


@pytest.mark.parametrize("symbol", ["u99999999999", "zuf99999999999", "u0 + 1", "u", "exec('1')"])
def test_symbol_that_torch_would_count_up_to_forever_is_refused(symbol, members, refusal):
    edit_json(
        members,
        PROGRAM,
        lambda document: document["range_constraints"].update(
            {symbol: {"min_val": 0, "max_val": None}}
        ),
    )
    assert isinstance(refusal(), UnsafeFile)


def test_field_that_is_not_in_the_schema_is_refused(members, refusal):
    edit_json(members, PROGRAM, lambda document: document.update(loader="exec"))
    assert "'loader' is unknown" in str(refusal())


@pytest.mark.parametrize("major", [7, 9, 0])
def test_schema_of_another_major_version_is_refused(major, members, refusal):
    edit_json(members, PROGRAM, lambda document: document["schema_version"].update(major=major))
    assert isinstance(refusal(), UnsafeFile)


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        ("collections.namedtuple", '"Pair"'),
        ("builtins.exec", "null"),
        ("torch.hub.load", '[["a"], ["b"], ["c"]]'),
        ("transformers.ModelOutput", '[{"__enum__": true, "fqn": "os.system"}]'),
        ("transformers.ModelOutput", '["a", "a"]'),
        ("builtins.dict", '["a", "a"]'),
        ("transformers.ModelOutput", '["a"]'),
    ],
)
def test_class_among_the_outputs_without_a_name_for_each_part_is_refused(
    kind, context, members, refusal
):
    leaf = {"type": None, "context": None, "children_spec": []}

    def change(document):
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["out_spec"] = json.dumps(
            [1, {"type": kind, "context": context, "children_spec": [leaf, leaf]}]
        )

    edit_json(members, PROGRAM, change)
    assert isinstance(refusal(), UnsafeFile | UnsupportedProgram)


def test_notes_beside_the_nodes_do_not_reach_torch(members, tmp_path):
    def change(document):
        first, second, *_ = graph_of(document)["nodes"]
        first["metadata"].update(
            source_fn_stack="a,torch.hub.load", custom="[" * 5000, from_node="{}"
        )
        second["metadata"]["nn_module_stack"] = 'a,x") or exec("1,torch.nn.Linear'

    edit_json(members, PROGRAM, change)
    clean = tmp_path / "clean.pt2"
    with open_pt2(write_members(members, tmp_path / "noted.pt2")) as checked:
        checked.write_clean(clean, example_inputs=b"")
    first, second, *_ = graph_of(json.loads(read_members(clean)[PROGRAM]))["nodes"]
    assert first["metadata"].keys() == {"nn_module_stack"}
    assert second["metadata"] == {}


def test_clean_file_holds_nothing_but_what_was_checked(members, tmp_path):
    members["extra/notes.txt"] = b"mine"
    members["data/weights/weight_77"] = b"unused"
    clean = tmp_path / "clean.pt2"
    with open_pt2(write_members(members, tmp_path / "more.pt2")) as checked:
        checked.write_clean(clean, example_inputs=b"")
    written = read_members(clean)
    assert not {"extra/notes.txt", "data/weights/weight_77"} & written.keys()
    assert written["data/weights/weight_0"] == members["data/weights/weight_0"]


@pytest.mark.parametrize(
    ("member", "code"),
    [
        ("data/aotinductor/model/a.so", "model.unsupported"),
        ("data/executorch/a.pte", "model.unsupported"),
        ("data/constants/custom_obj_0", "model.unsupported"),
        ("data/constants/opaque_obj_0", "model.unsupported"),
        ("data/weights/model.pt", "model.unsupported"),
        ("models/other.json", "model.unsupported"),
        ("data/weights/weight_0.py", "file.unsafe"),
        ("data/surprise", "file.unsafe"),
        ("code/__torch__.py", "file.unsafe"),
    ],
)
def test_member_that_no_plain_program_has_is_refused(member, code, members, refusal):
    members[member] = b"x"
    error = refusal()
    assert error.code == code
    assert member in str(error)


@pytest.mark.parametrize("member", [PROGRAM, WEIGHTS_CONFIG, CONSTANTS_CONFIG, "archive_version"])
def test_missing_member_is_named(member, members, refusal):
    del members[member]
    assert member in str(refusal())


def change_weight(members, **changes):
    edit_json(
        members,
        WEIGHTS_CONFIG,
        lambda document: document["config"]["linear.weight"]["tensor_meta"].update(changes),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": [{"as_int": 3}, {"as_int": 400}]},
        {"sizes": [{"as_int": 3}]},
        {"sizes": [{"as_int": -3}, {"as_int": 4}]},
        {"sizes": [{"as_expr": {"expr_str": "s0"}}, {"as_int": 4}]},
        {"strides": [{"as_int": 2**40}, {"as_int": 1}]},
        {"strides": [{"as_int": -1}, {"as_int": 1}]},
        {"storage_offset": {"as_int": 2**62}},
        {"storage_offset": {"as_int": -1}},
        {"dtype": 8},
        {"dtype": 99},
        {"dtype": True},
        {"layout": 1},
        {"sizes": [{"as_int": 2**40}, {"as_int": 1}], "strides": [{"as_int": 0}, {"as_int": 0}]},
    ],
)
def test_weight_that_reaches_beyond_its_bytes_is_refused(changes, members, refusal):
    change_weight(members, **changes)
    assert isinstance(refusal(), UnsafeFile)


def test_weight_of_a_great_size_without_bytes_is_refused(members, refusal):
    members["data/weights/weight_0"] = b""
    change_weight(members, sizes=[{"as_int": 2**40}, {"as_int": 1}])
    assert "holds 0" in str(refusal())


@pytest.mark.parametrize("path", ["../weight_0", "/etc/passwd", "weight_0\x00", "weight_99", ""])
def test_weight_in_a_member_of_another_name_is_refused(path, members, refusal):
    edit_json(
        members,
        WEIGHTS_CONFIG,
        lambda document: document["config"]["linear.weight"].update(path_name=path),
    )
    assert isinstance(refusal(), UnsafeFile)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b'"' + b"\\" * 100_001,
        b"",
        b"null",
        b"[]",
    ],
)
@pytest.mark.parametrize("member", [PROGRAM, WEIGHTS_CONFIG])
def test_json_that_is_deep_doubled_or_broken_is_refused(member, text, members, refusal):
    members[member] = text
    assert isinstance(refusal(), UnsafeFile)


def test_key_given_twice_deep_inside_is_refused(members, refusal):
    members[PROGRAM] = members[PROGRAM].replace(
        b'"schema_version": {', b'"schema_version": {"major": 8, ', 1
    )
    assert "twice" in str(refusal())


def test_json_of_a_gigabyte_is_refused_before_it_is_unpacked(members, tmp_path):
    path = tmp_path / "large.pt2"
    members[PROGRAM] = b" " * (33 * 2**20)
    with pytest.raises(ArchiveTooLarge):
        inspect_pt2(write_members(members, path))


def example_inputs(instructions, **others):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", instructions)
        for name, data in others.items():
            archive.writestr(f"archive/{name.replace('__', '/')}", data)
    return buffer.getvalue()


def deep_tuple():
    return b"\x80\x02" + b")" + b"\x85" * 10_000 + b"."


def doubled_tuple():
    """A tuple that holds itself twice, forty times over: a thousand billion leaves."""
    steps = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(40))
    return b"\x80\x02)" + steps + b"}\x86."


@pytest.mark.parametrize(
    "instructions",
    [
        pickle.dumps(((), {}), protocol=4),
        pickle.dumps((print, {}), protocol=2),
        pickle.dumps((print, {}), protocol=4),
        pickle.dumps(((torch.nn.Linear,), {}), protocol=2),
        pickle.dumps(((), {}), protocol=2) + b"more",
        pickle.dumps(((), {}), protocol=2)[:-1],
        pickle.dumps([], protocol=2),
        pickle.dumps((({"a'b": 1},), {}), protocol=2),
        pickle.dumps((({(1,): 1},), {}), protocol=2),
        pickle.dumps(((2**70,), {}), protocol=2),
        deep_tuple(),
        doubled_tuple(),
        b"\x80\x02}(X\x01\x00\x00\x00aX\x01\x00\x00\x00au0.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ccollections\nOrderedDict\n](K\x01e\x85R.",
        b"\x80\x02X\x07\x00\x00\x00storage\x85Q.",
        b"\x80\x02" + b"h\x07.",
        b"\x80\x02R.",
        b"\x80\x02\x93.",
        b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.",
        b"cos\nsystem\n(S'id'\ntR.",
        b"",
    ],
)
def test_example_inputs_that_are_not_plain_data_are_refused(instructions, members, refusal):
    members[EXAMPLES] = example_inputs(instructions)
    assert isinstance(refusal(), UnsafeFile)


def test_example_inputs_with_an_unknown_member_are_refused(members, refusal):
    members[EXAMPLES] = example_inputs(pickle.dumps(((), {}), protocol=2), code__run="x")
    assert "code/run" in str(refusal())


def test_example_inputs_that_are_no_zip_are_refused(members, refusal):
    members[EXAMPLES] = pickle.dumps(((), {}), protocol=2)
    assert isinstance(refusal(), UnsafeFile)


def test_example_tensor_that_reaches_beyond_its_storage_is_refused(members, refusal):
    buffer = io.BytesIO()
    torch.save(((torch.ones(7),), {}), buffer)
    instructions = read_members_of(buffer)["data.pkl"]
    # The storage's count of elements stays; the tensor's size becomes 99.
    size = b"K\x07\x85"
    assert size in instructions
    members[EXAMPLES] = example_inputs(
        instructions.replace(size, b"K\x63\x85"), data__0=struct.pack("<7f", *[1.0] * 7)
    )
    assert "99" in str(refusal()) or "396" in str(refusal())


class OfItsOwn(torch.Tensor):
    """A subclass: torch would import it by its name."""


def marked(name, value, kind=torch.Tensor):
    tensor = torch.ones(1).as_subclass(kind)
    setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    "tensor",
    [
        marked("shadow", 1),
        marked("_dynamo_hook", print),
        marked("_specialize_on", {0: [torch.nn.Linear]}),
        marked("_dynamo_x", 1, OfItsOwn),
    ],
    ids=["another_name", "a_function", "a_class", "a_subclass"],
)
def test_tensor_that_wears_more_than_the_exporters_marks_is_refused(tensor, members, refusal):
    buffer = io.BytesIO()
    torch.save(((tensor,), {}), buffer)
    members[EXAMPLES] = buffer.getvalue()
    assert isinstance(refusal(), UnsafeFile)


def read_members_of(buffer):
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
