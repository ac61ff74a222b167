"""What can be done with data sets."""

from dataclasses import dataclass

from sqlalchemy import Engine

from formats import inspect_dataset
from secateur.models import Dataset, DatasetFormat, DatasetPage
from service.clock import now
from service.errors import DatasetInUse, DatasetNotFound
from service.models import tensors
from service.paging import cursors_checked
from service.uploads import Received, refusals_told
from store.blobs import BlobStore
from store.collect import hold, remove_unreferenced
from store.datasets import Datasets
from store.session import read_scope, session_scope


@dataclass(frozen=True)
class DatasetService:
    """Data sets: uploaded, looked up, deleted."""

    engine: Engine
    blobs: BlobStore

    def add(
        self, file: Received, *, file_format: DatasetFormat, filename: str | None
    ) -> tuple[Dataset, bool]:
        """Keep a file as a data set.

        Returns:
            The data set, and whether it is new: the same bytes are the same data set.

        Raises:
            FileRefused: The file is no data set that can be taken.
        """
        known = self._known(file.sha256, file_format)
        if known is not None:
            return known, False
        with refusals_told():
            info = inspect_dataset(file.writer.path, file_format)
        with session_scope(self.engine) as session:
            hold(session, [file.sha256])
            known = Datasets(session).by_digest(file.sha256, file_format)
            if known is not None:  # Somebody else sent it in the meantime.
                return known, False
            file.writer.commit()
            dataset = Datasets(session).add(
                file_format=file_format,
                filename=filename,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                row_count=info.row_count,
                arrays=tensors(list(info.arrays.values())),
                now=now(),
            )
        return dataset, True

    def get(self, dataset_id: str) -> Dataset:
        with read_scope(self.engine) as session:
            dataset = Datasets(session).get(dataset_id)
        if dataset is None:
            raise DatasetNotFound(dataset_id)
        return dataset

    def page(self, *, limit: int, cursor: str | None, sha256: str | None) -> DatasetPage:
        with cursors_checked(), read_scope(self.engine) as session:
            found, next_cursor = Datasets(session).page(limit=limit, cursor=cursor, sha256=sha256)
        return DatasetPage(data=found, next_cursor=next_cursor)

    def delete(self, dataset_id: str) -> None:
        """Delete a data set that no unfinished job needs, and its bytes if nobody else has."""
        with session_scope(self.engine) as session:
            datasets = Datasets(session)
            dataset = datasets.lock(dataset_id)
            if dataset is None:
                raise DatasetNotFound(dataset_id)
            job_id = datasets.in_use_by(dataset_id)
            if job_id is not None:
                raise DatasetInUse(dataset_id, job_id=job_id)
            datasets.delete(dataset_id)
        with session_scope(self.engine) as session:
            remove_unreferenced(session, self.blobs, [dataset.sha256])

    def _known(self, sha256: str, file_format: DatasetFormat) -> Dataset | None:
        with read_scope(self.engine) as session:
            return Datasets(session).by_digest(sha256, file_format)
