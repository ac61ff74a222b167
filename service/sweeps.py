"""What can be done with sweeps."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from secateur.comparison import Comparison, compared
from secateur.grids import Path
from secateur.problems import FieldProblem
from secateur.report import Report
from secateur.spec import JobSpec
from secateur.sweeps import Child, Sweep, SweepPage, SweepSpec, SweepState
from service import errors
from service.checks import (
    Named,
    has_labels,
    mismatched_data,
    mismatched_plans,
    missing_data,
    too_few_rows,
    unavailable_outputs,
    uncomputed_precisions,
    unknown_references,
    unread_format,
)
from service.clock import now
from service.jobs import pinned, refuse
from service.measures import missing_test_data, unmeasurable
from service.messages import Messages
from service.paging import cursors_checked
from store.blobs import BlobStore
from store.collect import remove_unreferenced
from store.errors import IdempotencyMismatch
from store.jobs import Jobs
from store.session import read_scope, session_scope
from store.sweeps import CreatedSweep, NewChild, Sweeps


@dataclass(frozen=True)
class SweepService:
    """Sweeps: asked for, looked up, compared, canceled, deleted. One call is one transaction."""

    engine: Engine
    blobs: BlobStore
    messages: Messages

    def create(self, spec: SweepSpec, *, idempotency_key: str | None) -> CreatedSweep:
        """Queue all jobs of a sweep, and wake a worker for the first.

        Raises:
            UnknownReference: The spec names something that is not there.
            DataMissing: A step needs data that the jobs do not have.
            DataMismatch: A data set does not fit the model.
            PlanMismatch: A plan was made for another model.
            OutputUnavailable: The model's format does not lead to one that is asked for.
            FormatUnavailable: No worker is up that reads the model.
            IdempotencyReused: The key came before with another spec.
        """
        with session_scope(self.engine) as session:
            created = _create(session, spec, idempotency_key=idempotency_key)
            first = created.sweep.children[0].job_id
            model_format = Jobs(session).model_format(first)
        if not created.is_replay:
            assert model_format is not None, "the model was pinned"
            self.messages.send(first, model_format)
        return created

    def get(self, sweep_id: str) -> Sweep:
        with read_scope(self.engine) as session:
            return _existing(session, sweep_id)

    def page(
        self, *, limit: int, cursor: str | None, model_id: str | None, label: str | None
    ) -> SweepPage:
        with cursors_checked(), read_scope(self.engine) as session:
            sweeps, next_cursor = Sweeps(session).page(
                limit=limit, cursor=cursor, model_id=model_id, label=label
            )
        return SweepPage(data=sweeps, next_cursor=next_cursor)

    def cancel(self, sweep_id: str) -> Sweep:
        """Ask for all jobs of a sweep to stop.

        Raises:
            SweepNotFound: There is no such sweep.
            SweepTerminal: It has ended otherwise.
        """
        with session_scope(self.engine) as session:
            _existing(session, sweep_id)
            told = Sweeps(session).cancel(sweep_id, now())
            sweep = _existing(session, sweep_id)
        if sweep.state in (SweepState.SUCCEEDED, SweepState.FAILED):
            raise errors.SweepTerminal(sweep)
        for job_id in told:
            self.messages.announce(job_id)
        if told:
            self.messages.announce(sweep_id)
        return sweep

    def delete(self, sweep_id: str) -> None:
        """Delete a sweep that has ended, its jobs, and what they made if nothing else has it."""
        with session_scope(self.engine) as session:
            sweep = _existing(session, sweep_id)
            digests = Sweeps(session).digests(sweep_id)
            if not Sweeps(session).delete(sweep_id):
                raise errors.SweepNotFinal(sweep)
        with session_scope(self.engine) as session:
            remove_unreferenced(session, self.blobs, digests)

    def comparison(self, sweep_id: str) -> Comparison:
        """What is known by now of the jobs of a sweep."""
        with read_scope(self.engine) as session:
            sweep = _existing(session, sweep_id)
            found = Sweeps(session).reports(sweep_id)
        reports = {job_id: Report.model_validate(report) for job_id, report in found.items()}
        return compared(sweep, reports)


def _create(session: Session, spec: SweepSpec, *, idempotency_key: str | None) -> CreatedSweep:
    fingerprint = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
    try:
        if idempotency_key is not None:
            # Before the checks: a repetition is answered alike even if the model is gone by now.
            replay = Sweeps(session).replay(idempotency_key, fingerprint=fingerprint)
            if replay is not None:
                return CreatedSweep(replay, is_replay=True)
        children = _checked(spec, pinned(session, spec))
        return Sweeps(session).create(
            spec, children, now=now(), idempotency_key=idempotency_key, fingerprint=fingerprint
        )
    except IdempotencyMismatch as error:
        raise errors.IdempotencyReused(error.key) from error


def _existing(session: Session, sweep_id: str) -> Sweep:
    sweep = Sweeps(session).get(sweep_id)
    if sweep is None:
        raise errors.SweepNotFound(sweep_id)
    return sweep


def _checked(spec: SweepSpec, named: Named) -> list[NewChild]:
    """The jobs of a sweep, each of which would be taken by itself."""
    children = spec.children(has_labels=has_labels(spec, named))
    specs = [child.spec() for child in children]
    refuse(
        (errors.UnknownReference, unknown_references(spec, named)),
        (
            errors.DataMissing,
            [
                *_each_once(children, specs, lambda s: missing_data(s, named)),
                *missing_test_data(spec, named),
            ],
        ),
        (
            errors.DataMismatch,
            [
                *mismatched_data(named),
                *_each_once(children, specs, lambda s: too_few_rows(s, named)),
                *unmeasurable(spec, named),
            ],
        ),
        (errors.PlanMismatch, _each_once(children, specs, lambda s: mismatched_plans(s, named))),
        (errors.OutputUnavailable, unavailable_outputs(spec, named)),
        (errors.FormatUnavailable, unread_format(named)),
        (
            errors.PrecisionUnavailable,
            _each_once(children, specs, lambda s: uncomputed_precisions(s, named)),
        ),
    )
    return [
        NewChild(child.method, child.amount, job_spec)
        for child, job_spec in zip(children, specs, strict=True)
    ]


def _each_once(
    children: Sequence[Child],
    specs: Sequence[JobSpec],
    check: Callable[[JobSpec], list[FieldProblem]],
) -> list[FieldProblem]:
    """What is wrong with the jobs, at the place in the sweep's spec that it comes from."""
    found: dict[tuple[str, str], FieldProblem] = {}
    for child, spec in zip(children, specs, strict=True):
        for problem in check(spec):
            pointer = _pointer(child.place(_path(problem.pointer)))
            moved = problem.model_copy(update={"pointer": pointer})
            found.setdefault((pointer, problem.detail), moved)
    return list(found.values())


def _path(pointer: str) -> Path:
    """The parts of one of our own pointers, whose names need no escapes."""
    return tuple(int(part) if part.isdecimal() else part for part in pointer.split("/")[1:])


def _pointer(path: Path) -> str:
    return "".join(f"/{part}" for part in path)
