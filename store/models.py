"""Models: what was uploaded to be compressed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, final

from secateur.models import Model, ModelFormat, TensorInfo
from store.ids import new_id
from store.inputs import Inputs
from store.rows import as_model
from store.tables import ModelRow


@final
class Models(Inputs[ModelRow, Model]):
    """The repository of models, within one transaction."""

    table = ModelRow
    as_input = staticmethod(as_model)

    def add(
        self,
        *,
        file_format: ModelFormat,
        filename: str | None,
        size_bytes: int,
        sha256: str,
        inputs: Sequence[TensorInfo] | None,
        outputs: Sequence[TensorInfo] | None,
        parameter_count: int | None,
        now: datetime,
    ) -> Model:
        """Record a model. The caller holds `sha256` and has looked whether it is there already."""
        row = ModelRow(
            id=new_id("mdl"),
            format=file_format,
            filename=filename,
            size_bytes=size_bytes,
            sha256=sha256,
            inputs=_stored(inputs),
            outputs=_stored(outputs),
            parameter_count=parameter_count,
            created_at=now,
        )
        return self._added(row)


def _stored(tensors: Sequence[TensorInfo] | None) -> list[dict[str, Any]] | None:
    return None if tensors is None else [tensor.model_dump() for tensor in tensors]
