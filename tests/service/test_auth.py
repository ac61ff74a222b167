"""Who may call, and who is told what."""

import hashlib

import pytest
from pydantic import ValidationError

from service.settings import ServiceSettings
from tests.service.helpers import KEY, assert_problem, services_of, settings_in

PUBLIC = {"/healthz", "/readyz", "/version", "/errors/{code}"}


def protected_routes(app):
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            if path not in PUBLIC:
                yield method.upper(), path


def test_every_route_but_the_public_ones_needs_a_key(app, stranger):
    routes = list(protected_routes(app))
    assert len(routes) > 15
    for method, path in routes:
        response = stranger.request(method, path, content=b"not even read")
        if method == "HEAD":
            assert response.status_code == 401
        else:
            assert_problem(response, 401, "auth.missing")
        assert response.headers["www-authenticate"].startswith("Bearer")


def test_what_needs_no_key_is_known(app):
    """Also the routes that the OpenAPI document does not list."""
    paths = {route.path for route in (*app.state.routes, *app.routes) if hasattr(route, "path")}
    unlisted = {"/openapi.json", "/docs"}
    assert {path for path in paths if not path.startswith("/v1/")} == PUBLIC | unlisted


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nothing", "/v1/models/../models"])
def test_a_stranger_does_not_learn_which_routes_there_are(stranger, path):
    assert_problem(stranger.get(path), 401, "auth.missing")


@pytest.mark.parametrize("path", sorted(PUBLIC - {"/errors/{code}"}))
def test_public_routes_need_no_key(stranger, path):
    assert stranger.get(path).status_code == 200


@pytest.mark.parametrize("value", ["", "Bearer", f"Basic {KEY}", KEY])
def test_what_is_no_bearer_key_is_none(stranger, value):
    response = stranger.get("/v1/models", headers={"Authorization": value})
    assert_problem(response, 401, "auth.missing")


@pytest.mark.parametrize("key", ["wrong", KEY + "x", KEY[:-1], KEY.upper(), "é"])
def test_a_wrong_key_is_refused(stranger, key):
    headers = {"Authorization": f"Bearer {key}".encode()}
    response = stranger.get("/v1/models", headers=headers)
    assert_problem(response, 401, "auth.invalid")
    assert "invalid_token" in response.headers["www-authenticate"]


def test_a_key_may_be_set_by_its_digest(tmp_path):
    digest = hashlib.sha256(b"secret").digest()
    settings = settings_in(tmp_path, api_keys=f"sha256:{digest.hex()}, other")
    assert settings.api_key_digests == (digest, hashlib.sha256(b"other").digest())


def test_a_service_without_keys_does_not_start(monkeypatch):
    with pytest.raises(ValidationError, match="api_keys"):
        ServiceSettings()
    monkeypatch.setenv("SECATEUR_API_KEYS", " , ")
    with pytest.raises(ValidationError, match="api_keys"):
        ServiceSettings()


def test_keys_do_not_show_in_settings_or_logs(app, client, caplog):
    caplog.set_level("INFO")
    client.get("/v1/models")
    client.get("/v1/models", headers={"Authorization": "Bearer wrong-secret"})
    assert KEY not in repr(services_of(app).settings)
    logged = "".join(str(vars(record)) for record in caplog.records if record.name != "httpx")
    assert KEY not in logged
    assert "wrong-secret" not in logged
