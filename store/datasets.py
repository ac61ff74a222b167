"""Data sets: what was uploaded to tune and to measure with."""

from collections.abc import Sequence
from datetime import datetime
from typing import final

from secateur.models import Dataset, DatasetFormat, TensorInfo
from store.ids import new_id
from store.inputs import Inputs
from store.rows import as_dataset
from store.tables import DatasetRow


@final
class Datasets(Inputs[DatasetRow, Dataset]):
    """The repository of data sets, within one transaction."""

    table = DatasetRow
    as_input = staticmethod(as_dataset)

    def add(
        self,
        *,
        file_format: DatasetFormat,
        filename: str | None,
        size_bytes: int,
        sha256: str,
        row_count: int,
        arrays: Sequence[TensorInfo],
        now: datetime,
    ) -> Dataset:
        """Record a data set. The caller holds `sha256` and has looked whether it is there."""
        row = DatasetRow(
            id=new_id("dst"),
            format=file_format,
            filename=filename,
            size_bytes=size_bytes,
            sha256=sha256,
            row_count=row_count,
            arrays=[array.model_dump() for array in arrays],
            created_at=now,
        )
        return self._added(row)
