"""Choices between graphs."""

from worker.engine.readers.onnx.host import Host
from worker.engine.readers.onnx.registry import Call, Unmet, Value, operator


@operator("If", either=(0,))
def if_(call: Call, condition: Value) -> list[Value]:
    """Run the graph that a condition chooses, where shapes or constants decide it."""
    if not isinstance(condition, Host):
        raise Unmet("its condition depends on the values of inputs")
    assert call.run is not None
    return call.run("then_branch" if condition.one() else "else_branch")
