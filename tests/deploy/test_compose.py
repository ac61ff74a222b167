"""docker-compose.yml: what it names exists, what must be secret is asked for."""

import re
from typing import Any

import pytest
import yaml

from service.settings import ServiceSettings
from store.settings import StoreSettings
from tests.deploy.images import ROOT, images
from worker.settings import WorkerSettings

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: each for name, each in SERVICES.items() if "build" in each}

SETTINGS = {
    "service": ServiceSettings,
    "migrations": StoreSettings,
    "worker": WorkerSettings,
    "worker-gpu": WorkerSettings,
}


def test_the_parts_are_there() -> None:
    assert OURS.keys() == SETTINGS.keys()
    assert SERVICES.keys() - OURS.keys() == {"postgres", "redis"}


@pytest.mark.parametrize("name", OURS)
def test_it_is_built_from_a_stage_of_the_dockerfile(name: str) -> None:
    assert OURS[name]["build"]["target"] in images()


@pytest.mark.parametrize("name", OURS)
def test_every_setting_is_one(name: str) -> None:
    known = {f"SECATEUR_{field.upper()}" for field in SETTINGS[name].model_fields}
    # What several parts share may be more than one of them reads.
    shared = {"SECATEUR_BROKER_URL"}
    assert set(OURS[name]["environment"]) <= known | shared


def test_secrets_are_asked_for_and_never_given() -> None:
    for variable, rest in re.findall(r"\$\{(\w+)([^}]*)\}", TEXT):
        if "KEY" in variable or "PASSWORD" in variable:
            assert rest.startswith(":?"), f"{variable} must be required"


def test_what_a_part_waits_for_exists_and_can_be_waited_for() -> None:
    for each in SERVICES.values():
        for other, how in each.get("depends_on", {}).items():
            condition = how["condition"]
            if condition == "service_healthy":
                assert "test" in SERVICES[other]["healthcheck"]
            else:
                assert condition == "service_completed_successfully"
                assert SERVICES[other]["restart"] == "no"


def test_service_and_workers_wait_for_the_migrations() -> None:
    for name in OURS.keys() - {"migrations"}:
        assert OURS[name]["depends_on"]["migrations"] == {
            "condition": "service_completed_successfully"
        }


def test_a_gpu_is_asked_for_only_under_its_profile() -> None:
    asking = [name for name, each in SERVICES.items() if "deploy" in each]
    assert asking == ["worker-gpu"]
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]


def test_workers_reach_nobody_outside() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    for name in ("worker", "worker-gpu"):
        assert SERVICES[name]["networks"] == ["inside"]


def test_redis_keeps_what_it_was_given() -> None:
    assert "--appendonly yes" in SERVICES["redis"]["command"][-1]


def test_volumes_and_networks_are_declared() -> None:
    for each in SERVICES.values():
        assert {volume.partition(":")[0] for volume in each.get("volumes", [])} <= set(
            COMPOSE["volumes"]
        )
        assert set(each["networks"]) <= set(COMPOSE["networks"])


def test_the_migrations_command_is_the_one_of_the_stack() -> None:
    """Which tests/stack runs for real."""
    assert SERVICES["migrations"]["command"] == ["python", "-m", "alembic", "upgrade", "head"]
