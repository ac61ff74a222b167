"""The client: everything that the service does, as methods."""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx
from pydantic import BaseModel

from secateur.comparison import Comparison
from secateur.errors import JobCanceled, JobFailed, UnknownModelFile, WaitTimeout
from secateur.files import OnBytes, Source, download, source_of
from secateur.jobs import Artifact, ArtifactList, Job, JobKind, JobPage, JobState, JobSummary
from secateur.models import Dataset, DatasetFormat, DatasetPage, Model, ModelFormat, ModelPage
from secateur.packing import Architecture, packed
from secateur.plan import Plan
from secateur.problems import Capabilities, Validation
from secateur.report import Report
from secateur.search import Minimize
from secateur.spec import JobSpec, PlanSpec, bare_plan
from secateur.sweeps import Sweep, SweepPage, SweepSpec, SweepSummary
from secateur.transport import Request, Retries, Transport

_POLL_S = 30
"""How long one request waits for news. Short enough for every proxy on the way."""

_PAGE_ROWS = 100

Page = TypeVar("Page", ModelPage, DatasetPage, JobPage, SweepPage)
Followed = TypeVar("Followed", Job, Sweep)
Kind = TypeVar("Kind", bound=BaseModel)


class Client:
    """A connection to one service. Use it as a context manager, or `close` it.

    ::

        with Client(url, api_key) as client:
            model = client.upload_model(Path("model.pt2"))
            job = client.create_job(
                {
                    "model_id": model.id,
                    "recipe": [{"step": "prune", "budget": {"macs": 0.5}}],
                }
            )
            client.wait(job)
            client.download_all(job, Path("pruned"))
    """

    def __init__(
        self, url: str, api_key: str, *, retries: Retries | None = None, timeout_s: float = 60.0
    ) -> None:
        """Say where the service is. Nothing is sent yet.

        Args:
            url: Such as `http://127.0.0.1:8000`.
            api_key: A key that the service's operator gave you.
            retries: How often what can be repeated safely is.
            timeout_s: How long the service may be silent within one request.
        """
        self._transport = Transport(url, api_key, retries=retries or Retries(), timeout_s=timeout_s)

    @classmethod
    def from_environment(cls) -> Self:
        """A client for SECATEUR_URL and SECATEUR_API_KEY.

        Raises:
            KeyError: One of them is not set.
        """
        return cls(os.environ["SECATEUR_URL"], os.environ["SECATEUR_API_KEY"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    # Models and data sets.

    def upload_model(
        self,
        content: Path | bytes,
        *,
        file_format: ModelFormat | None = None,
        architecture: Architecture | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Model:
        """Upload a model; a file that the service has already is not sent again.

        Args:
            content: A file; its bytes; or a folder, which is sent as a zip: of a SavedModel, of
                transformers, or of ONNX with external data.
            file_format: What it is. By default told by names; bytes are `pt2`.
            architecture: What weights are for, such as `torchvision/resnet18`: `content` is then a
                file of weights (safetensors, or a pickled state dict), or a folder of them.
            on_bytes: Called as bytes are sent.

        Raises:
            UnknownModelFile: It is no model, as far as names tell.
        """
        if isinstance(content, bytes):
            if architecture is not None:
                raise UnknownModelFile(None, "weights in memory are not packed: give their file")
            return self._upload_model(content, file_format or ModelFormat.PT2, on_bytes)
        with packed(content, file_format=file_format, architecture=architecture) as (path, told):
            return self._upload_model(path, told, on_bytes)

    def _upload_model(
        self, content: Path | bytes, file_format: ModelFormat, on_bytes: OnBytes | None
    ) -> Model:
        source = source_of(content)
        known = self._page(ModelPage, "/v1/models", sha256=source.sha256).data
        for model in known:
            if model.format is file_format:
                return model
        return self._upload(Model, "/v1/models", source, file_format, on_bytes)

    def upload_dataset(
        self,
        content: Path | bytes,
        *,
        file_format: DatasetFormat = DatasetFormat.NPZ,
        on_bytes: OnBytes | None = None,
    ) -> Dataset:
        """Upload a data set's file, or its bytes; what the service has is not sent again."""
        source = source_of(content)
        known = self._page(DatasetPage, "/v1/datasets", sha256=source.sha256).data
        for dataset in known:
            if dataset.format is file_format:
                return dataset
        return self._upload(Dataset, "/v1/datasets", source, file_format, on_bytes)

    def model(self, model_id: str) -> Model:
        return self._get(Model, f"/v1/models/{model_id}")

    def dataset(self, dataset_id: str) -> Dataset:
        return self._get(Dataset, f"/v1/datasets/{dataset_id}")

    def models(self) -> Iterator[Model]:
        """Every model, newest first."""
        for page in self._pages(ModelPage, "/v1/models"):
            yield from page.data

    def datasets(self) -> Iterator[Dataset]:
        """Every data set, newest first."""
        for page in self._pages(DatasetPage, "/v1/datasets"):
            yield from page.data

    def delete_model(self, model_id: str) -> None:
        self._delete(f"/v1/models/{model_id}")

    def delete_dataset(self, dataset_id: str) -> None:
        self._delete(f"/v1/datasets/{dataset_id}")

    # Jobs.

    def create_job(
        self, spec: JobSpec | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Job:
        """Start a job.

        Args:
            spec: What to do. A mapping is checked here, before anything is sent. The `plan` of an
                `apply_plan` step is a `Plan` or its document, of which only what is read is sent.
            idempotency_key: Makes one job of all calls with the same key; by default a new one,
                so that a call that has to be repeated on the way still makes one job.

        Raises:
            ValidationError: The mapping is no spec.
            ProblemError: The spec names what is not there, or what does not fit together.
        """
        return self._create(Job, "/v1/jobs", JobSpec.model_validate(spec), idempotency_key)

    def create_plan(
        self, spec: PlanSpec | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Job:
        """Start a dry run, a job whose result is a plan. See `create_job`."""
        return self._create(Job, "/v1/plans", PlanSpec.model_validate(spec), idempotency_key)

    def job(self, job: Job | str) -> Job:
        """A job as it is now."""
        return self._get(Job, f"/v1/jobs/{_id(job)}")

    def jobs(
        self,
        *,
        state: JobState | None = None,
        model_id: str | None = None,
        label: str | None = None,
        sweep_id: str | None = None,
    ) -> Iterator[JobSummary]:
        """Every job that is like this, newest first, without its spec."""
        query = {"state": state, "model_id": model_id, "label": label, "sweep_id": sweep_id}
        given = {name: value for name, value in query.items() if value is not None}
        for page in self._pages(JobPage, "/v1/jobs", **given):
            yield from page.data

    def wait(
        self,
        job: Job | str,
        *,
        on_update: Callable[[Job], None] | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """Wait until a job has succeeded.

        Args:
            job: The job, or its id.
            on_update: Called with the job as it is now, and then with each change as it happens.
            timeout_s: How long to wait; by default for as long as it takes.

        Raises:
            JobFailed: It ended with a failure.
            JobCanceled: It was canceled.
            WaitTimeout: It has not ended in time.
        """
        for now in self._updates(Job, f"/v1/jobs/{_id(job)}", timeout_s):
            if on_update is not None:
                on_update(now)
            if now.state is JobState.SUCCEEDED:
                return now
            if now.failure is not None:
                raise JobFailed(now, now.failure)
            if now.state.is_final:
                raise JobCanceled(now)
        raise AssertionError("updates end with a final state")

    def cancel(self, job: Job | str) -> Job:
        """Ask for a job to stop. A running one is `canceling` until its worker has stopped it."""
        request = self._request("POST", f"/v1/jobs/{_id(job)}/cancel", is_repeatable=True)
        return self._transport.read_as(Job, self._transport.send(request))

    def delete(self, job: Job | str) -> None:
        """Delete a job that has ended, with its artifacts."""
        self._delete(f"/v1/jobs/{_id(job)}")

    def result(self, job: Job | str) -> Report | Plan:
        """What a job measured; for a dry run, its plan."""
        if isinstance(job, str):
            job = self.job(job)
        kind: type[Report | Plan] = Plan if job.kind is JobKind.PLAN else Report
        return self._get(kind, f"/v1/jobs/{job.id}/result")

    def report(self, job: Job | str) -> Report:
        """What a job measured that succeeded, or that failed as it broke a promise."""
        return self._get(Report, f"/v1/jobs/{_id(job)}/result")

    def plan(self, job: Job | str) -> Plan:
        """What a dry run decided."""
        return self._get(Plan, f"/v1/jobs/{_id(job)}/result")

    def job_chart(
        self,
        job: Job | str,
        file_format: Literal["svg", "png"] = "svg",
        *,
        against: Minimize | None = None,
    ) -> bytes:
        """The trials of a job that looked for the smallest model, as a picture.

        Args:
            job: The job, or its id.
            file_format: `svg` or `png`.
            against: What the horizontal axis shows; by default what was minimized.
        """
        path = f"/v1/jobs/{_id(job)}/chart.{file_format}"
        query = {} if against is None else {"against": against.value}
        request = self._request("GET", path, query=query, is_repeatable=True)
        return self._transport.send(request).content

    # Sweeps.

    def create_sweep(
        self, spec: SweepSpec | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Sweep:
        """Start many jobs of one model, to be compared. See `create_job`."""
        return self._create(Sweep, "/v1/sweeps", SweepSpec.model_validate(spec), idempotency_key)

    def sweep(self, sweep: Sweep | str) -> Sweep:
        """A sweep as it is now."""
        return self._get(Sweep, f"/v1/sweeps/{_id(sweep)}")

    def sweeps(
        self, *, model_id: str | None = None, label: str | None = None
    ) -> Iterator[SweepSummary]:
        """Every sweep that is like this, newest first, without its spec and its jobs."""
        query = {"model_id": model_id, "label": label}
        given = {name: value for name, value in query.items() if value is not None}
        for page in self._pages(SweepPage, "/v1/sweeps", **given):
            yield from page.data

    def wait_sweep(
        self,
        sweep: Sweep | str,
        *,
        on_update: Callable[[Sweep], None] | None = None,
        timeout_s: float | None = None,
    ) -> Sweep:
        """Wait until a sweep has ended, however: its `state` says how, and that of each job.

        Args:
            sweep: The sweep, or its id.
            on_update: Called with the sweep as it is now, and then whenever a job of it is in
                another state.
            timeout_s: How long to wait; by default for as long as it takes.

        Raises:
            WaitTimeout: It has not ended in time.
        """
        for now in self._updates(Sweep, f"/v1/sweeps/{_id(sweep)}", timeout_s):
            if on_update is not None:
                on_update(now)
            if now.state.is_final:
                return now
        raise AssertionError("updates end with a final state")

    def cancel_sweep(self, sweep: Sweep | str) -> Sweep:
        """Ask for all jobs of a sweep to stop that have not ended."""
        request = self._request("POST", f"/v1/sweeps/{_id(sweep)}/cancel", is_repeatable=True)
        return self._transport.read_as(Sweep, self._transport.send(request))

    def delete_sweep(self, sweep: Sweep | str) -> None:
        """Delete a sweep that has ended, with its jobs and their artifacts."""
        self._delete(f"/v1/sweeps/{_id(sweep)}")

    def comparison(self, sweep: Sweep | str) -> Comparison:
        """What is known by now of a sweep's jobs, side by side."""
        return self._get(Comparison, f"/v1/sweeps/{_id(sweep)}/result")

    def sweep_chart(self, sweep: Sweep | str, file_format: Literal["svg", "png"] = "svg") -> bytes:
        """The comparison as a picture."""
        path = f"/v1/sweeps/{_id(sweep)}/chart.{file_format}"
        return self._transport.send(self._request("GET", path, is_repeatable=True)).content

    # Artifacts.

    def artifacts(self, job: Job | str) -> list[Artifact]:
        """The files that a job made, by name."""
        return self._get(ArtifactList, f"/v1/jobs/{_id(job)}/artifacts").data

    def download(self, artifact: Artifact, to: Path, *, on_bytes: OnBytes | None = None) -> Path:
        """Download an artifact: the whole file with the right digest, or none.

        Args:
            artifact: Which.
            to: A file, or a folder that exists.
            on_bytes: Called as bytes arrive.

        Returns:
            The file. What arrived before a connection broke is gone on with by the next call.

        Raises:
            DownloadCorrupt: What arrived is not what the service announced.
        """
        path = to / _plain(artifact.name) if to.is_dir() else to
        download(self._transport, artifact, path, on_bytes or _ignore)
        return path

    def download_all(self, job: Job | str, folder: Path) -> list[Path]:
        """Download everything that a job made into a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        return [self.download(artifact, folder) for artifact in self.artifacts(job)]

    # The service.

    def capabilities(self) -> Capabilities:
        """What the service can do."""
        return self._get(Capabilities, "/v1/capabilities")

    def validate(self, spec: JobSpec | Mapping[str, Any]) -> Validation:
        """Ask whether a spec would be taken, and what is wrong with it. Nothing is started."""
        body = json.dumps(_bare(spec)) if isinstance(spec, Mapping) else spec.model_dump_json()
        request = self._request("POST", "/v1/jobs/validate", body=body.encode(), is_repeatable=True)
        return self._transport.read_as(Validation, self._transport.send(request))

    def _request(
        self,
        method: str,
        path: str,
        *,
        is_repeatable: bool,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> Request:
        kind = {"Content-Type": "application/json"} if body else {}
        return Request(
            method=method,
            path=path,
            query=query or {},
            headers={**kind, **(headers or {})},
            body=lambda: body,
            is_repeatable=is_repeatable,
            wait_s=wait_s,
        )

    def _get(self, kind: type[Kind], path: str) -> Kind:
        request = self._request("GET", path, is_repeatable=True)
        return self._transport.read_as(kind, self._transport.send(request))

    def _page(self, kind: type[Page], path: str, **query: str) -> Page:
        request = self._request("GET", path, query=query, is_repeatable=True)
        return self._transport.read_as(kind, self._transport.send(request))

    def _pages(self, kind: type[Page], path: str, **query: str) -> Iterator[Page]:
        page = self._page(kind, path, limit=str(_PAGE_ROWS), **query)
        yield page
        while page.next_cursor is not None:
            page = self._page(kind, path, limit=str(_PAGE_ROWS), cursor=page.next_cursor, **query)
            yield page

    def _create(
        self,
        kind: type[Kind],
        path: str,
        spec: JobSpec | PlanSpec | SweepSpec,
        idempotency_key: str | None,
    ) -> Kind:
        request = self._request(
            "POST",
            path,
            body=spec.model_dump_json().encode(),
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
            is_repeatable=True,
        )
        return self._transport.read_as(kind, self._transport.send(request))

    def _upload(
        self,
        kind: type[Kind],
        path: str,
        source: Source,
        file_format: str,
        on_bytes: OnBytes | None,
    ) -> Kind:
        query = {"format": file_format}
        if source.name is not None:
            query["filename"] = source.name
        request = Request(
            method="POST",
            path=path,
            query=query,
            headers=source.headers,
            body=lambda: source.counted(on_bytes or _ignore),
            # The same bytes are the same model.
            is_repeatable=True,
        )
        return self._transport.read_as(kind, self._transport.send(request))

    def _delete(self, path: str) -> None:
        request = self._request("DELETE", path, is_repeatable=True)
        self._transport.send(request)

    def _updates(
        self, kind: type[Followed], path: str, timeout_s: float | None
    ) -> Iterator[Followed]:
        """A job or sweep as it is, and each time that it has changed, until it is final."""
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        response = self._transport.send(self._request("GET", path, is_repeatable=True))
        while True:
            now = self._transport.read_as(kind, response)
            yield now
            if now.state.is_final:
                return
            etag = response.headers["ETag"]
            while True:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    assert timeout_s is not None
                    raise WaitTimeout(now, timeout_s)
                response = self._poll(path, etag, min(_POLL_S, left_s))
                if response.status_code != httpx.codes.NOT_MODIFIED:
                    break

    def _poll(self, path: str, etag: str, wait_s: float) -> httpx.Response:
        asked_at = time.monotonic()
        response = self._transport.send(
            self._request(
                "GET",
                path,
                headers={"If-None-Match": etag},
                query={"wait": f"{wait_s:.3f}"},
                wait_s=wait_s,
                is_repeatable=True,
            )
        )
        took_s = time.monotonic() - asked_at
        if response.status_code == httpx.codes.NOT_MODIFIED and took_s < wait_s:
            # The service cannot hear of changes: its broker is away. It says when to ask again.
            retry_after_s = float(response.headers.get("Retry-After", "1"))
            time.sleep(min(retry_after_s, wait_s - took_s))
        return response


def _id(job: Job | Sweep | str) -> str:
    return job if isinstance(job, str) else job.id


def _bare(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A spec that is not checked yet, its plans without what is not read."""
    recipe = spec.get("recipe")
    if not isinstance(recipe, list | tuple):
        return spec
    steps = [
        {**step, "plan": bare_plan(step["plan"])}
        if isinstance(step, Mapping) and "plan" in step
        else step
        for step in recipe
    ]
    return {**spec, "recipe": steps}


def _plain(name: str) -> str:
    """A name that stays in its folder, whatever the service calls its files."""
    if name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise ValueError(f"the service names an artifact {name!r}, which is no file name")
    return name


def _ignore(done: int, total: int) -> None:
    """Nobody wants to know."""
