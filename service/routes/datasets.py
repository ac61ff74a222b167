"""Data sets."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from secateur.models import Dataset, DatasetFormat, DatasetPage
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

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])


@router.post(
    "",
    summary="Upload a data set",
    status_code=status.HTTP_201_CREATED,
    response_model=Dataset,
    responses={
        200: {"model": Dataset, "description": "This file is here already: the one of before."},
        **problems(*UPLOAD_PROBLEMS),
    },
    openapi_extra=UPLOAD_BODY,
)
async def upload_dataset(
    upload: UploadDependency,
    response: Response,
    services: ServicesDependency,
    file_format: Annotated[
        DatasetFormat, Query(alias="format", description="What the file is.")
    ] = DatasetFormat.NPZ,
) -> Dataset:
    """Send a data set's file as the body of the request, as it is.

    An `npz` file is what `numpy.savez` writes. It holds an array `inputs` with a row for each
    example (`inputs_0`, `inputs_1`, ... for a model of several inputs), and where there are labels
    an array `targets` with as many rows. Arrays of objects are refused.

    Send `Repr-Digest: sha-256=:<Base64>:` (RFC 9530), and a file that arrives changed is refused.
    The same file sent twice is one data set.
    """
    dataset, is_new = await services.datasets.take(upload, file_format=file_format)
    response.status_code = status.HTTP_201_CREATED if is_new else status.HTTP_200_OK
    response.headers["Location"] = f"{router.prefix}/{dataset.id}"
    return dataset


@router.get(
    "",
    summary="List data sets",
    response_model=DatasetPage,
    responses=problems(errors.UnknownCursor, errors.RequestInvalid),
)
def list_datasets(
    services: ServicesDependency,
    limit: Limit = 20,
    cursor: Cursor = None,
    sha256: Sha256Filter = None,
) -> DatasetPage:
    """Data sets, newest first.

    Follow `next_cursor` until it is null. With `sha256`, say whether a file is here already.
    """
    found, next_cursor = services.datasets.page(limit=limit, cursor=cursor, sha256=sha256)
    return DatasetPage(data=found, next_cursor=next_cursor)


@router.get(
    "/{dataset_id}",
    summary="Get a data set",
    response_model=Dataset,
    responses=problems(errors.DatasetNotFound),
)
def get_dataset(dataset_id: str, services: ServicesDependency) -> Dataset:
    """What is known of a data set: its file, its arrays and rows."""
    return services.datasets.get(dataset_id)


@router.delete(
    "/{dataset_id}",
    summary="Delete a data set",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(errors.DatasetNotFound, errors.DatasetInUse),
)
def delete_dataset(dataset_id: str, services: ServicesDependency) -> None:
    """Delete a data set and its file. Jobs that have ended stay."""
    services.datasets.delete(dataset_id)
