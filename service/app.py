"""The composition root: the one place that picks implementations."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.types import Scope

import secateur
from service import errors
from service.auth import DOCUMENTED, KeyCheck
from service.dependencies import Services
from service.errors import ServiceError
from service.files import DatasetService, ModelService
from service.jobs import JobService
from service.messages import CeleryMessages, Messages
from service.middleware import BodyLimit, RequestContext
from service.openapi import DESCRIPTION, TAGS, complete
from service.problems import (
    on_database_error,
    on_http_exception,
    on_invalid_request,
    on_service_error,
    problems,
)
from service.reference import reference
from service.routes import datasets, discovery, jobs, models, operations, results, sweeps
from service.settings import ServiceSettings
from service.sweeps import SweepService
from store.file_blobs import FileBlobs
from store.session import make_engine

_UPLOADS = frozenset({models.router.prefix, datasets.router.prefix})


def create_app(settings: ServiceSettings, *, messages: Messages | None = None) -> FastAPI:
    """The service, ready to be served.

    Args:
        settings: How it is set up.
        messages: How jobs are announced; Celery's broker by default.
    """
    services = _services(settings, messages or CeleryMessages(settings.broker_url))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await services.jobs.messages.close()
        services.engine.dispose()

    app = FastAPI(
        title="Secateur",
        summary="Make trained neural networks smaller and faster.",
        description=DESCRIPTION,
        version=secateur.__version__,
        openapi_tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        # A criterion may be said in two ways and is answered in one: one schema says both.
        separate_input_output_schemas=False,
        # Theirs load scripts from elsewhere; ours is one page of its own.
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        # A path with a slash too many is unknown, not somewhere else.
        redirect_slashes=False,
    )
    app.state.services = services
    _add_routes(app)
    _add_handlers(app)
    _add_middleware(app, settings)
    return app


def _services(settings: ServiceSettings, messages: Messages) -> Services:
    engine = make_engine(settings)
    blobs = FileBlobs(settings.blob_dir)
    return Services(
        settings=settings,
        engine=engine,
        blobs=blobs,
        models=ModelService(engine, blobs, settings.model_max_bytes),
        datasets=DatasetService(engine, blobs, settings.dataset_max_bytes),
        jobs=JobService(engine, blobs, messages, settings.retry_after_s),
        sweeps=SweepService(engine, blobs, messages),
    )


def _add_routes(app: FastAPI) -> None:
    everywhere = problems(
        errors.KeyMissing, errors.KeyUnknown, errors.NotReady, errors.InternalError
    )
    # Discovery first: /v1/jobs/validate is no job.
    routers = [module.router for module in (discovery, models, datasets, jobs, results, sweeps)]
    for router in routers:
        app.include_router(router, dependencies=[DOCUMENTED], responses=everywhere)
    app.include_router(operations.router)
    app.state.routes = [
        route for router in (*routers, operations.router) for route in router.routes
    ]
    built_in = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete(built_in())
        return app.openapi_schema

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(reference(app.openapi()))

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way.


def _add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_exception)
    for database_error in (OperationalError, PoolTimeout):
        app.add_exception_handler(database_error, on_database_error)


def _add_middleware(app: FastAPI, settings: ServiceSettings) -> None:
    # The last one added is the first one called.
    app.add_middleware(BodyLimit, limit_bytes=settings.body_max_bytes, is_upload=_is_upload)
    app.add_middleware(KeyCheck, digests=settings.api_key_digests)
    app.add_middleware(RequestContext)


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"] in _UPLOADS


def _operation_id(route: APIRoute) -> str:
    return route.name
