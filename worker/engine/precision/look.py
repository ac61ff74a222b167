"""Look at what a program computes on data: what few bits do not hold, and what they cost."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from worker.engine.arguments import argument, written_by
from worker.engine.batch import computing_with_data
from worker.engine.precision.choice import largest_finite
from worker.engine.precision.kinds import Kind, float32_in, floats_read, is_attention, kind_of
from worker.engine.program import Program

_HEADROOM = 4.0
"""How much larger a number may be on other data than on what was looked at."""

Leaves = Sequence[Any]


@dataclass
class Seen:
    """What was found.

    Attributes:
        islands: Calls whose numbers the type does not hold, and why.
        infinite: Nodes that are not finite in float32 either.
        errors: Of each call alone, computed in the type of fewer bits from inputs without error:
            the root of the mean square of its difference, over that of its output.
    """

    islands: dict[Node, str] = field(default_factory=dict)
    infinite: set[Node] = field(default_factory=set)
    errors: dict[Node, float] = field(default_factory=dict)


def look(
    program: Program,
    batches: Sequence[Leaves],
    low: torch.dtype,
    on_progress: Callable[[int, int], None],
) -> Seen:
    """Run a float32 program on data, and each of its calls in fewer bits beside it.

    Args:
        program: Read, never written.
        batches: Flat inputs of each call.
        low: The type of fewer bits.
        on_progress: Told batches done, of how many.

    Raises:
        DataMismatchError: The program does not run on the data.
    """
    looking = _Looking(program, low)
    for done, leaves in enumerate(batches, start=1):
        with computing_with_data(), program.unwritten(leaves) as own:
            looking.run(*own, enable_io_processing=False)
        on_progress(done, len(batches))
    return looking.seen()


class _Looking(Interpreter):
    def __init__(self, program: Program, low: torch.dtype) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # It would be appended to messages that users read.
        self.low = low
        self.peaks: dict[Node, float] = defaultdict(float)
        self.sums: dict[Node, float] = defaultdict(float)
        self.squares: dict[Node, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.infinite: set[Node] = set()

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function" or written_by(n):
            made = super().run_node(n)
        else:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            made = super().run_node(n)
            self.compare(n, args, kwargs, made)
        if float32_in(n) and n.op != "output":
            tensors = _floats(made)
            self.peaks[n] = max([self.peaks[n], *map(largest_finite, tensors)])
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                self.infinite.add(n)
        return made

    def compare(self, node: Node, args: Any, kwargs: Any, made: Any) -> None:
        """Do a call in fewer bits too."""
        kind = kind_of(node)
        if kind not in (Kind.PRODUCT, Kind.ELEMENTWISE) or not float32_in(node):
            return
        if kind is Kind.PRODUCT and self.low == torch.float16 and not is_attention(node):
            absolute = pytree.tree_map_only(Tensor, _absolute, (args, kwargs))
            self.sums[node] = max(self.sums[node], *map(largest_finite, self.tried(node, absolute)))
        rounded = self.tried(node, pytree.tree_map_only(Tensor, self.rounded, (args, kwargs)))
        for one, other in zip(rounded, _floats(made), strict=False):
            difference = torch.where(other.isfinite(), one.double() - other.double(), 0.0)
            self.squares[node][0] += float(difference.square().sum())
            expected = torch.where(other.isfinite(), other, 0.0).double()
            self.squares[node][1] += float(expected.square().sum())

    def tried(self, node: Node, given: Any) -> list[Tensor]:
        args, kwargs = given
        try:
            return _floats(node.target(*args, **kwargs))  # type: ignore[operator]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            return [torch.zeros(())]  # Whoever writes the casts finds that torch does not do it.

    def rounded(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        most = torch.finfo(self.low).max
        return torch.where(tensor.isinf(), tensor, tensor.clamp(-most, most)).to(self.low)

    def seen(self) -> Seen:
        seen = Seen(infinite=self.infinite)
        limit = torch.finfo(self.low).max / _HEADROOM
        name = str(self.low).removeprefix("torch.")
        for node in self.module.graph.nodes:  # type: ignore[union-attr]
            if node.op != "call_function" or not float32_in(node):
                continue
            if kind_of(node) not in (Kind.PRODUCT, Kind.ELEMENTWISE):
                continue
            mask = argument(node, "attn_mask") if is_attention(node) else None
            read = [each for each in floats_read(node) if each is not mask]
            most = max([self.peaks[node], *(self.peaks[each] for each in read)])
            if most > limit:
                seen.islands[node] = (
                    f"numbers up to {most:.3g} meet here, and {name} ends at "
                    f"{torch.finfo(self.low).max:.3g}"
                )
            elif self.sums[node] > torch.finfo(self.low).max:
                seen.islands[node] = (
                    f"its sums reach {self.sums[node]:.3g} on the way, and {name} ends at "
                    f"{torch.finfo(self.low).max:.3g}"
                )
            if node in self.squares:
                wrong, all_in_all = self.squares[node]
                seen.errors[node] = (wrong / all_in_all) ** 0.5 if all_in_all else 0.0
        return seen


def first_infinite(
    program: Program, origins: dict[Node, Node], batches: Sequence[Leaves], known: set[Node]
) -> Node | None:
    """The node of the original whose twin is the first to give NaN or infinity where it does not.

    Args:
        program: The program with casts.
        origins: The nodes of the original, by those of the program.
        batches: Flat inputs of each call.
        known: Nodes of the original that are not finite themselves.
    """
    for leaves in batches:
        finding = _Finding(program, origins, known)
        with program.unwritten(program.as_taken(leaves)) as own:
            finding.run(*own, enable_io_processing=False)
        if finding.found is not None:
            return finding.found
    return None


class _Finding(Interpreter):
    def __init__(self, program: Program, origins: dict[Node, Node], known: set[Node]) -> None:
        super().__init__(program.module)
        self.extra_traceback = False
        self.origins = origins
        self.known = known
        self.found: Node | None = None

    def run_node(self, n: Node) -> Any:
        made = super().run_node(n)
        origin = self.origins.get(n)
        if self.found is None and origin is not None and n.op == "call_function":
            bad = any(not bool(each.isfinite().all()) for each in _floats(made))
            self.found = origin if bad and origin not in self.known else None
        return made


def _floats(made: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(made)
    return [each for each in leaves if isinstance(each, Tensor) and each.is_floating_point()]


def _absolute(tensor: Tensor) -> Tensor:
    return tensor.abs() if tensor.dtype == torch.float32 else tensor
