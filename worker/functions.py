"""What a child runs for each kind of job, by name: only the fork server imports it."""

from collections.abc import Iterable, Mapping

from secateur.jobs import JobKind

FUNCTIONS: Mapping[JobKind, str] = {
    JobKind.COMPRESS: "worker.engine.compress:compress",
    JobKind.PLAN: "worker.engine.compress:make_plan",
}


def modules_of(functions: Iterable[str]) -> list[str]:
    """The modules that `module:name` functions are in."""
    return sorted({name.partition(":")[0] for name in functions})
