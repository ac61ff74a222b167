"""A folder that ``from_pretrained`` loads, zipped."""

import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from worker.engine.difference import LOW_PRECISION, relative_error, tolerance
from worker.engine.program import Program, set_attribute
from worker.engine.readers.architecture.offline import import_offline
from worker.engine.readers.architecture.pretrained import PretrainedOrigin
from worker.engine.writers.inexpressible import InexpressibleError
from worker.engine.writers.pretrained_config import candidates

_INPUTS = "secateur.json"
"""Which inputs the model was exported with, in order."""


def write(program: Program, origin: PretrainedOrigin, path: Path) -> None:
    """Find the configuration that has the pruned shapes, and have transformers save it.

    Raises:
        InexpressibleError: No configuration has these shapes, or none computes the same.
    """
    import_offline()
    import transformers

    model_class = getattr(transformers, origin.class_name)
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in program.module.state_dict().items()
    }
    if any(tensor.dtype == torch.float8_e4m3fn for tensor in weights.values()):
        raise InexpressibleError(
            "its weights are float8_e4m3fn with scales beside them, for which the model's class "
            "has no place: take model.pt2, or ask for bfloat16"
        )
    # What the exporter keeps beside the weights, as tables that the model makes itself, is no name
    # of the class; what the class ties has one of its names only.
    own = model_class(model_class.config_class.from_dict(origin.config)).state_dict()
    given = {name: tensor for name, tensor in weights.items() if name in own}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    with torch.no_grad():
        expected = program.run(program.example_leaves)
    worst = float("inf")
    for config, names in candidates(model_class, origin.config, shapes):
        model = model_class(_built(model_class, config)).eval()
        model.load_state_dict({names[name]: tensor for name, tensor in given.items()}, strict=False)
        model.tie_weights()
        error = relative_error(_outputs(model, origin.inputs, program.example_leaves), expected)
        worst = min(worst, error)
        if error <= tolerance(program):
            _store_low(model, {names[name]: tensor.dtype for name, tensor in given.items()})
            _save(model, origin, path)
            return
    raise InexpressibleError(
        f"configurations of {origin.class_name} with these shapes compute something else (relative "
        f"difference {worst:.2g})"
    )


def serve(path: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """What ``from_pretrained`` loads."""
    import_offline()
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        told = json.loads((Path(folder) / _INPUTS).read_text())
        model = getattr(transformers, told["class"]).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
    model.eval()
    return partial(_outputs, model, told["inputs"])


def run(path: Path, calls: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The outputs of what ``from_pretrained`` loads."""
    call = serve(path)
    return [output for leaves in calls for output in call(leaves)]


def _built(model_class: Any, config: dict[str, Any]) -> Any:
    built = model_class.config_class.from_dict(config)
    if hasattr(built, "use_cache"):
        built.use_cache = False
    return built


@torch.no_grad()
def _outputs(model: Any, names: Sequence[str], call: Sequence[Any]) -> list[Tensor]:
    arguments = dict(zip(names, call, strict=True))
    has_cache = hasattr(model.config, "use_cache")
    found = model(**arguments, **({"use_cache": False} if has_cache else {}))
    return [each for each in pytree.tree_leaves(found) if isinstance(each, Tensor)]


def _store_low(model: Any, dtypes: Mapping[str, torch.dtype]) -> None:
    """Have what the program stores in fewer bits stored so here; the rest stays as it is."""
    stored = model.state_dict()
    for name, dtype in dtypes.items():
        if dtype in LOW_PRECISION and stored[name].dtype == torch.float32:
            set_attribute(model, name, torch.nn.Parameter(stored[name].to(dtype)))
    model.tie_weights()


def _save(model: Any, origin: PretrainedOrigin, path: Path) -> None:
    """Save as a zip of files that are stored as they are.

    In the precision of the upload, if that loses nothing: what was trained since may need more.
    """
    use_cache = origin.config.get("use_cache")
    if use_cache is not None:
        model.config.use_cache = use_cache
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        dtype = getattr(torch, origin.dtype)
        if not any(weight.dtype in LOW_PRECISION for weight in model.parameters()) and all(
            torch.equal(weight, weight.to(dtype).float()) for weight in model.parameters()
        ):
            model.to(dtype)
        model.save_pretrained(folder)
        told = {"class": origin.class_name, "inputs": list(origin.inputs)}
        (Path(folder) / _INPUTS).write_text(json.dumps(told, indent=2) + "\n")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(Path(folder).iterdir()):
                archive.write(file, file.name)
