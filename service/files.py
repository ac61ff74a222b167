"""What can be done with uploaded files: models and data sets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, final

from anyio.to_thread import run_sync
from sqlalchemy import Engine

from formats import inspect_dataset, inspect_model
from formats.tensors import TensorInfo as FileTensorInfo
from secateur.models import Dataset, DatasetFormat, Model, ModelFormat, TensorInfo
from service import errors
from service.clock import now
from service.paging import cursors_checked
from service.uploads import Received, Upload, received, refusals_told
from store.blobs import BlobStore
from store.collect import hold, remove_unreferenced
from store.datasets import Datasets
from store.inputs import Inputs
from store.models import Models
from store.session import read_scope, session_scope

FileFormat = TypeVar("FileFormat", ModelFormat, DatasetFormat)
Resource = TypeVar("Resource", Model, Dataset)


@dataclass(frozen=True)
class FileService(ABC, Generic[FileFormat, Resource]):
    """Files of one kind: uploaded, looked up, deleted.

    A kind says its repository, its errors, and how a file of it is read.
    """

    engine: Engine
    blobs: BlobStore
    limit_bytes: int

    # Any: the type of a class attribute cannot depend on the kind.
    repository: ClassVar[type[Inputs[Any, Any]]]
    not_found: ClassVar[type[errors.ModelNotFound | errors.DatasetNotFound]]
    in_use: ClassVar[type[errors.ModelInUse | errors.DatasetInUse]]

    @abstractmethod
    def _inspected(self, path: Path, file_format: FileFormat) -> Callable[..., Resource]:
        """Check a file, and give the repository's `add` with what was found in it.

        Raises:
            FormatError: The file is not to be read.
        """

    async def take(self, upload: Upload, *, file_format: FileFormat) -> tuple[Resource, bool]:
        """Keep a file that is on its way.

        Returns:
            What it is, and whether that is new: the same bytes are the same resource.

        Raises:
            UploadError: It does not arrive whole, does not fit, or cannot be taken.
        """
        async with received(upload, self.blobs, limit_bytes=self.limit_bytes) as file:
            return await run_sync(self._keep, file, file_format, upload.filename)

    def get(self, resource_id: str) -> Resource:
        with read_scope(self.engine) as session:
            found: Resource | None = self.repository(session).get(resource_id)
        if found is None:
            raise self.not_found(resource_id)
        return found

    def page(
        self, *, limit: int, cursor: str | None, sha256: str | None
    ) -> tuple[list[Resource], str | None]:
        """Newest first, and the cursor of the next page.

        Raises:
            UnknownCursor: `cursor` is of no page of this list.
        """
        with cursors_checked(), read_scope(self.engine) as session:
            return self.repository(session).page(limit=limit, cursor=cursor, sha256=sha256)

    def delete(self, resource_id: str) -> None:
        """Delete what no unfinished job needs, and its bytes if nothing else has them."""
        with session_scope(self.engine) as session:
            repository = self.repository(session)
            found = repository.lock(resource_id)
            if found is None:
                raise self.not_found(resource_id)
            job_id = repository.in_use_by(resource_id)
            if job_id is not None:
                raise self.in_use(resource_id, job_id=job_id)
            repository.delete(resource_id)
        with session_scope(self.engine) as session:
            remove_unreferenced(session, self.blobs, [found.sha256])

    def _keep(
        self, file: Received, file_format: FileFormat, filename: str | None
    ) -> tuple[Resource, bool]:
        with read_scope(self.engine) as session:
            known: Resource | None = self.repository(session).by_digest(file.sha256, file_format)
        if known is not None:
            return known, False
        with refusals_told():
            add = self._inspected(file.writer.path, file_format)
        with session_scope(self.engine) as session:
            hold(session, [file.sha256])
            repository = self.repository(session)
            known = repository.by_digest(file.sha256, file_format)
            if known is not None:  # Somebody else sent it in the meantime.
                return known, False
            file.writer.commit()
            new = add(
                repository,
                file_format=file_format,
                filename=filename,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                now=now(),
            )
        return new, True


@final
class ModelService(FileService[ModelFormat, Model]):
    """Models: uploaded, looked up, deleted."""

    repository = Models
    not_found = errors.ModelNotFound
    in_use = errors.ModelInUse

    def _inspected(self, path: Path, file_format: ModelFormat) -> Callable[..., Model]:
        info = inspect_model(path, file_format)
        return partial(
            Models.add,
            inputs=None if info.inputs is None else _tensors(info.inputs),
            outputs=None if info.outputs is None else _tensors(info.outputs),
            parameter_count=info.parameter_count,
        )


@final
class DatasetService(FileService[DatasetFormat, Dataset]):
    """Data sets: uploaded, looked up, deleted."""

    repository = Datasets
    not_found = errors.DatasetNotFound
    in_use = errors.DatasetInUse

    def _inspected(self, path: Path, file_format: DatasetFormat) -> Callable[..., Dataset]:
        info = inspect_dataset(path, file_format)
        arrays = _tensors(list(info.arrays.values()))
        return partial(Datasets.add, row_count=info.row_count, arrays=arrays)


def _tensors(found: Sequence[FileTensorInfo]) -> list[TensorInfo]:
    """Tensors as the file's reader saw them, as the contract says them."""
    return [
        TensorInfo(name=tensor.name, dtype=tensor.dtype, shape=list(tensor.shape))
        for tensor in found
    ]
