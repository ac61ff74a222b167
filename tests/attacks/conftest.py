import pytest

from tests.attacks import exploits


@pytest.fixture(scope="session")
def honest_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("honest") / "victim.pt2"
    exploits.export_victim(path)
    return path


@pytest.fixture(scope="session")
def honest_members(honest_path):
    return exploits.read_members(honest_path)


@pytest.fixture
def members(honest_members):
    return dict(honest_members)
