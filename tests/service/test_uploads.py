"""Uploads that are taken: models and data sets from the first byte to the last row."""

import hashlib

import numpy as np
import pytest

from secateur.models import Dataset, Model
from tests.service.files import dataset_file, labeled_dataset_file, model_file
from tests.service.helpers import (
    NOTHING,
    Kept,
    assert_problem,
    kept,
    prune_spec,
    repr_digest,
    services_of,
)

UNKNOWN = "0" * 24


def test_a_model_is_described_as_its_file_says(client):
    response = client.post("/v1/models?format=pt2&filename=net.pt2", content=model_file())
    assert response.status_code == 201
    model = Model.model_validate(response.json())
    assert response.headers["location"] == f"/v1/models/{model.id}"
    assert (model.filename, model.size_bytes) == ("net.pt2", len(model_file()))
    assert model.sha256 == hashlib.sha256(model_file()).hexdigest()
    assert model.parameter_count == 4 * 9 + 4 + 64 * 3 + 3
    [tensor] = model.inputs
    assert (tensor.dtype, tensor.shape[1:]) == ("float32", [1, 6, 6])
    assert isinstance(tensor.shape[0], str)
    assert client.get(response.headers["location"]).json() == response.json()


def test_a_data_set_is_described_as_its_file_says(client):
    response = client.post("/v1/datasets", content=labeled_dataset_file(rows=5))
    assert response.status_code == 201
    dataset = Dataset.model_validate(response.json())
    assert dataset.row_count == 5
    assert {array.name: (array.dtype, array.shape) for array in dataset.arrays} == {
        "inputs": ("float32", [5, 1, 6, 6]),
        "targets": ("int64", [5]),
    }
    assert client.get(response.headers["location"]).json() == response.json()


def test_the_bytes_are_kept_as_they_were_sent(client, app):
    model = client.post("/v1/models", content=model_file()).json()
    assert services_of(app).blobs.path(model["sha256"]).read_bytes() == model_file()


def test_a_stream_without_a_length_is_taken(client):
    pieces = (model_file()[i : i + 1000] for i in range(0, len(model_file()), 1000))
    assert client.post("/v1/models", content=pieces).status_code == 201


def test_a_file_that_arrives_as_announced_is_taken(client):
    headers = {"Repr-Digest": repr_digest(model_file())}
    assert client.post("/v1/models", content=model_file(), headers=headers).status_code == 201


def test_other_digests_beside_the_sha256_are_no_hindrance(client):
    headers = {"Repr-Digest": f"sha-512=:YQ==:, {repr_digest(model_file())}"}
    assert client.post("/v1/models", content=model_file(), headers=headers).status_code == 201


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_the_same_file_sent_twice_is_one_resource(client, app, kind):
    content = model_file() if kind == "models" else labeled_dataset_file()
    first = client.post(f"/v1/{kind}", content=content)
    second = client.post(f"/v1/{kind}", content=content)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert kept(app) == Kept(blobs=1, unfinished=0, rows=1)


def test_a_file_is_found_by_its_digest_before_it_is_sent_again(client, model_id):
    digest = hashlib.sha256(model_file()).hexdigest()
    found = client.get("/v1/models", params={"sha256": digest}).json()["data"]
    assert [model["id"] for model in found] == [model_id]
    other = client.get("/v1/models", params={"sha256": "0" * 64}).json()
    assert other == {"data": [], "next_cursor": None}


def test_lists_are_paged(client):
    ids = [
        client.post(
            "/v1/datasets", content=dataset_file(inputs=np.zeros((rows, 2), np.float32))
        ).json()["id"]
        for rows in (1, 2, 3)
    ]
    first = client.get("/v1/datasets?limit=2").json()
    second = client.get("/v1/datasets", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    listed = [each["id"] for each in first["data"] + second["data"]]
    assert listed == ids[::-1]
    assert second["next_cursor"] is None


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_what_is_deleted_is_gone_with_its_file(client, app, kind):
    content = model_file() if kind == "models" else labeled_dataset_file()
    path = client.post(f"/v1/{kind}", content=content).headers["location"]
    response = client.delete(path)
    assert (response.status_code, response.content) == (204, b"")
    assert kept(app) == NOTHING
    assert_problem(client.get(path), 404, f"{kind.removesuffix('s')}.not_found")
    assert_problem(client.delete(path), 404, f"{kind.removesuffix('s')}.not_found")


def test_what_an_unfinished_job_reads_is_not_deleted(client, model_id, dataset_id):
    spec = prune_spec(model_id, data={"test": dataset_id})
    job = client.post("/v1/jobs", json=spec).json()
    refused = assert_problem(client.delete(f"/v1/models/{model_id}"), 409, "model.in_use")
    assert job["id"] in refused.detail
    assert_problem(client.delete(f"/v1/datasets/{dataset_id}"), 409, "dataset.in_use")
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.delete(f"/v1/models/{model_id}").status_code == 204
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204
