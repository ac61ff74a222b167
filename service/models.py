"""What can be done with models."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from formats import inspect_model
from formats.tensors import TensorInfo as FileTensorInfo
from secateur.models import Model, ModelFormat, ModelPage, TensorInfo
from service.clock import now
from service.errors import ModelInUse, ModelNotFound
from service.paging import cursors_checked
from service.uploads import Received, refusals_told
from store.blobs import BlobStore
from store.collect import hold, remove_unreferenced
from store.models import Models
from store.session import read_scope, session_scope


@dataclass(frozen=True)
class ModelService:
    """Models: uploaded, looked up, deleted."""

    engine: Engine
    blobs: BlobStore

    def add(
        self, file: Received, *, file_format: ModelFormat, filename: str | None
    ) -> tuple[Model, bool]:
        """Keep a file as a model.

        Returns:
            The model, and whether it is new: the same bytes are the same model.

        Raises:
            FileRefused: The file is no model that can be taken.
        """
        known = self._known(file.sha256, file_format)
        if known is not None:
            return known, False
        with refusals_told():
            info = inspect_model(file.writer.path, file_format)
        with session_scope(self.engine) as session:
            hold(session, [file.sha256])
            known = Models(session).by_digest(file.sha256, file_format)
            if known is not None:  # Somebody else sent it in the meantime.
                return known, False
            file.writer.commit()
            model = Models(session).add(
                file_format=file_format,
                filename=filename,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                inputs=tensors(info.inputs),
                outputs=tensors(info.outputs),
                parameter_count=info.parameter_count,
                now=now(),
            )
        return model, True

    def get(self, model_id: str) -> Model:
        with read_scope(self.engine) as session:
            model = Models(session).get(model_id)
        if model is None:
            raise ModelNotFound(model_id)
        return model

    def page(self, *, limit: int, cursor: str | None, sha256: str | None) -> ModelPage:
        with cursors_checked(), read_scope(self.engine) as session:
            found, next_cursor = Models(session).page(limit=limit, cursor=cursor, sha256=sha256)
        return ModelPage(data=found, next_cursor=next_cursor)

    def delete(self, model_id: str) -> None:
        """Delete a model that no unfinished job needs, and its bytes if nothing else has them."""
        with session_scope(self.engine) as session:
            models = Models(session)
            model = models.lock(model_id)
            if model is None:
                raise ModelNotFound(model_id)
            job_id = models.in_use_by(model_id)
            if job_id is not None:
                raise ModelInUse(model_id, job_id=job_id)
            models.delete(model_id)
        with session_scope(self.engine) as session:
            remove_unreferenced(session, self.blobs, [model.sha256])

    def _known(self, sha256: str, file_format: ModelFormat) -> Model | None:
        with read_scope(self.engine) as session:
            return Models(session).by_digest(sha256, file_format)


def tensors(found: Sequence[FileTensorInfo]) -> list[TensorInfo]:
    """Tensors as the file's reader saw them, as the contract says them."""
    return [
        TensorInfo(name=tensor.name, dtype=tensor.dtype, shape=list(tensor.shape))
        for tensor in found
    ]
