"""Models."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from secateur.models import Model, ModelFormat, ModelPage
from service import errors
from service.dependencies import (
    UPLOAD_BODY,
    Cursor,
    Limit,
    ServicesDependency,
    Sha256Filter,
    UploadDependency,
)
from service.problems import UPLOAD_PROBLEMS, problems

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post(
    "",
    summary="Upload a model",
    status_code=status.HTTP_201_CREATED,
    response_model=Model,
    responses={
        200: {"model": Model, "description": "This file is here already: the model of before."},
        **problems(*UPLOAD_PROBLEMS),
    },
    openapi_extra=UPLOAD_BODY,
)
async def upload_model(
    upload: UploadDependency,
    response: Response,
    services: ServicesDependency,
    file_format: Annotated[
        ModelFormat, Query(alias="format", description="What the file is.")
    ] = ModelFormat.PT2,
) -> Model:
    """Send a model's file as the body of the request, as it is.

    `pt2` is what `torch.export.save` writes; `onnx` a model alone, or a zip with its external data;
    `keras` and `h5` what Keras saves; `saved_model` a zip or tar of TensorFlow's folder;
    `safetensors` a zip of weights and of what they are for. None holds code of yours: each is
    checked before anything reads it, and pickled modules are refused. The answer says what the
    model reads and gives, where the file tells.

    Send `Repr-Digest: sha-256=:<Base64>:` (RFC 9530), and a file that arrives changed is refused.
    The same file sent twice is one model.
    """
    model, is_new = await services.models.take(upload, file_format=file_format)
    response.status_code = status.HTTP_201_CREATED if is_new else status.HTTP_200_OK
    response.headers["Location"] = f"{router.prefix}/{model.id}"
    return model


@router.get(
    "",
    summary="List models",
    response_model=ModelPage,
    responses=problems(errors.UnknownCursor, errors.RequestInvalid),
)
def list_models(
    services: ServicesDependency,
    limit: Limit = 20,
    cursor: Cursor = None,
    sha256: Sha256Filter = None,
) -> ModelPage:
    """Models, newest first.

    Follow `next_cursor` until it is null. With `sha256`, say whether a file is here already.
    """
    found, next_cursor = services.models.page(limit=limit, cursor=cursor, sha256=sha256)
    return ModelPage(data=found, next_cursor=next_cursor)


@router.get(
    "/{model_id}",
    summary="Get a model",
    response_model=Model,
    responses=problems(errors.ModelNotFound),
)
def get_model(model_id: str, services: ServicesDependency) -> Model:
    """What is known of a model: its file, its inputs and outputs, its size."""
    return services.models.get(model_id)


@router.delete(
    "/{model_id}",
    summary="Delete a model",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(errors.ModelNotFound, errors.ModelInUse),
)
def delete_model(model_id: str, services: ServicesDependency) -> None:
    """Delete a model and its file. Jobs that have ended, and what they made, stay."""
    services.models.delete(model_id)
