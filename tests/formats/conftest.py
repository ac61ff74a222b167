import pytest

from tests.formats import zoo
from worker.engine.load import load_program


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Return the file of a program in the zoo, and the program; each is exported once."""
    folder = tmp_path_factory.mktemp("zoo")
    made = {}

    def export(name):
        if name not in made:
            made[name] = zoo.save(name, folder)
        return made[name]

    return export


@pytest.fixture(scope="session")
def path_of(exported):
    return lambda name: exported(name)[0]


@pytest.fixture(scope="session")
def loaded(path_of):
    """Return a program of the zoo as the engine loads it; each is loaded once."""
    made = {}

    def load(name):
        if name not in made:
            made[name] = load_program(path_of(name))
        return made[name]

    return load
