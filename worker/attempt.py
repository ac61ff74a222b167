"""One attempt at a job: claim it, have a child process do it, record how it ended."""

import logging
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from secateur.failures import Failure
from secateur.jobs import JobKind
from store.blobs import BlobStore
from store.claims import Claim, DatasetInput
from store.collect import hold
from store.errors import BlobNotFound
from store.jobs import Jobs
from store.session import session_scope
from worker import confine, resources
from worker.checkpoints import CheckpointKeeper
from worker.launch import Launcher
from worker.order import (
    ORDER_FILE,
    OUTCOME_FILE,
    OUTPUT_FOLDER,
    InputFile,
    Order,
    Outcome,
    Step,
    read_outcome,
)
from worker.results import BadResult, Delivery, delivery
from worker.scratch import scratch_folder
from worker.settings import WorkerSettings
from worker.supervise import Rhythm, Verdict, supervise
from worker.wake import Wake, Wakes

_log = logging.getLogger(__name__)

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

# Waits before an ending is written once more, if the database is away: hours of work hang on it.
_RETRY_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

# A processor second is spent by each thread: a process that is within its time is within this.
_CPU_SECONDS_PER_SECOND = 1024


@dataclass(frozen=True)
class Workplace:
    """What every attempt in this worker shares."""

    settings: WorkerSettings
    engine: Engine
    blobs: BlobStore
    launcher: Launcher
    wakes: Wakes
    announce: Callable[[str], None]
    send: Callable[[str], None]
    """Have a queued job done, by whichever worker is free."""
    release: Callable[[], None]
    """Have jobs whose attempts were given up queued again."""
    send_next: Callable[[], None]
    """Have the jobs of sweeps done that come next."""
    functions: Mapping[JobKind, str]


def run_job(place: Workplace, job_id: str) -> None:
    """Do a queued job. Nothing happens if it is not queued: a message may come twice."""
    if place.wakes.is_stopping:
        return
    with session_scope(place.engine) as session:
        claim = Jobs(session).claim(job_id, _now(), sweep_jobs_max=place.settings.sweep_jobs_max)
    if claim is None:
        # A job of a sweep that was canceled while it waited leaves its turn to another.
        _send_next(place)
        return
    attempt = _Attempt(place, claim)
    attempt.announce()
    if claim.sweep_id is None:
        attempt.run()
        return
    # Now, for others may run beside it; and when it has ended, in whatever way.
    _send_next(place)
    try:
        attempt.run()
    finally:
        _send_next(place)


def _send_next(place: Workplace) -> None:
    try:
        place.send_next()
    except OperationalError:
        # The database is away. The sweep of lost messages does it when it is back.
        _log.exception("the next jobs of sweeps could not be sent")


class _Attempt:
    def __init__(self, place: Workplace, claim: Claim) -> None:
        self._place = place
        self._claim = claim
        self._name = f"{claim.job_id}, attempt {claim.attempt}"
        self._step: Step | None = None
        self._beaten_at = 0.0
        self._folder: Path | None = None
        self._checkpoints = CheckpointKeeper(claim, place.engine, place.blobs)

    def announce(self) -> None:
        """Say that the job is in another state, to those who watch its sweep too."""
        self._place.announce(self._claim.job_id)
        if self._claim.sweep_id is not None:
            self._place.announce(self._claim.sweep_id)

    def run(self) -> None:
        _log.info("%s begins", self._name)
        settings = self._place.settings
        try:
            with scratch_folder(settings.scratch_dir, prefix=self._claim.job_id) as folder:
                self._run_in(folder)
        except Exception:
            # Ours, not the job's: a full disk, a database that went away. Another worker, or this
            # one later, may do better.
            _log.exception("%s is given up", self._name)
            self._give_up()
            raise

    def _run_in(self, folder: Path) -> None:
        self._folder = folder
        order = self._order()
        (folder / OUTPUT_FOLDER).mkdir()
        (folder / ORDER_FILE).write_text(order.model_dump_json())
        kills_before = confine.oom_kill_count()
        with self._place.wakes.listening(self._claim.job_id) as wake:
            verdict, exit_code = self._supervise(folder, wake)
        if verdict is not Verdict.TAKEN and not (folder / OUTCOME_FILE).exists():
            # It was killed, or has to make room: what it left is where the next attempt goes on.
            self._checkpoints.look(folder, idle=self._beat_if_due)
        match verdict:
            case Verdict.ENDED:
                was_memory = confine.oom_kill_count() > kills_before
                self._ended(folder, exit_code, order, was_memory=was_memory)
            case Verdict.TIME_LIMIT:
                self._fail(resources.time_limit(self._claim.spec.run_timeout_s))
            case Verdict.TAKEN:
                self._give_up()
            case Verdict.STOPPING:
                self._give_back()

    def _order(self) -> Order:
        claim, settings = self._claim, self._place.settings
        return Order(
            job_id=claim.job_id,
            attempt=claim.attempt,
            function=self._place.functions[claim.kind],
            spec=claim.spec,
            model=InputFile(
                path=self._place.blobs.path(claim.model.sha256), sha256=claim.model.sha256
            ),
            model_format=claim.model.format,
            train=self._dataset(claim.train),
            test=self._dataset(claim.test),
            checkpoint=self._checkpoint(),
            checkpoint_s=settings.checkpoint_s,
            device=settings.device,
            memory_bytes=settings.child_memory_bytes or confine.machine_memory_bytes() * 9 // 10,
            file_bytes=settings.child_file_bytes,
            cpu_s=claim.spec.run_timeout_s * _CPU_SECONDS_PER_SECOND,
        )

    def _dataset(self, dataset: DatasetInput | None) -> InputFile | None:
        if dataset is None:
            return None
        return InputFile(path=self._place.blobs.path(dataset.sha256), sha256=dataset.sha256)

    def _checkpoint(self) -> InputFile | None:
        sha256 = self._claim.checkpoint
        if sha256 is None:
            return None
        try:
            return InputFile(path=self._place.blobs.path(sha256), sha256=sha256)
        except BlobNotFound:  # The job takes longer for it, and is done all the same.
            _log.warning("%s: its checkpoint is gone", self._name)
            return None

    def _supervise(self, folder: Path, wake: Wake) -> tuple[Verdict, int | None]:
        settings = self._place.settings
        rhythm = Rhythm(
            heartbeat_s=settings.heartbeat_s,
            progress_s=settings.progress_s,
            stop_grace_s=settings.stop_grace_s,
            time_limit_s=self._claim.spec.run_timeout_s,
        )
        with closing(self._place.launcher.start(folder)) as child:
            verdict = supervise(child, beat=self._beat_and_look, wake=wake, rhythm=rhythm)
            # Killed or not, it has ended before its folder is looked at, or removed.
            return verdict, child.exit_code()

    def _beat(self, step: Step | None) -> bool:
        """Write that we live, and how far we are; watchers hear of what is new."""
        is_news = step != self._step
        try:
            with session_scope(self._place.engine) as session:
                is_ours = Jobs(session).beat(
                    self._claim.job_id,
                    attempt=self._claim.attempt,
                    now=_now(),
                    stage=step.stage if step else None,
                    progress=step.progress if step else None,
                )
        except OperationalError:
            # The database is away. If it stays away, the job is another's when it is back, and the
            # next beat will say so.
            _log.exception("%s could not beat", self._name)
            return True
        self._step = step
        self._beaten_at = time.monotonic()
        if is_ours and is_news:
            self._place.announce(self._claim.job_id)
        return is_ours

    def _beat_and_look(self, step: Step | None) -> bool:
        """The same, and keep what the child has left for another attempt, if that is new."""
        is_ours = self._beat(step)
        if is_ours and self._folder is not None:
            self._checkpoints.look(self._folder, idle=self._beat_if_due)
        return is_ours

    def _beat_if_due(self) -> None:
        if time.monotonic() - self._beaten_at > self._place.settings.heartbeat_s:
            self._beat(self._step)

    def _ended(
        self, folder: Path, exit_code: int | None, order: Order, *, was_memory: bool
    ) -> None:
        try:
            outcome = read_outcome(folder) if exit_code == 0 else None
        except ValueError:
            _log.exception("%s left an outcome that is none", self._name)
            self._fail(resources.internal())
            return
        if outcome is None:
            _log.warning("%s ended with exit code %s and no word", self._name, exit_code)
            if was_memory and exit_code == -signal.SIGKILL:
                self._fail(resources.out_of_memory(order.memory_bytes))
            else:
                self._give_up()
        elif outcome.failure is not None and outcome.result is None:
            self._fail(outcome.failure)
        else:
            self._deliver(outcome, folder)

    def _deliver(self, outcome: Outcome, folder: Path) -> None:
        with ExitStack() as stack:
            try:
                delivered = stack.enter_context(
                    delivery(
                        self._claim, outcome, folder, self._place.blobs, idle=self._beat_if_due
                    )
                )
            except BadResult:
                _log.exception("%s is not delivered", self._name)
                self._fail(resources.internal())
                return
            failure = outcome.failure
            self._record(
                "succeeded" if failure is None else f"failed: {failure.code}, with a result",
                lambda session: self._finish(session, delivered, failure),
            )

    def _finish(self, session: Session, delivered: Delivery, failure: Failure | None) -> bool:
        # Held before they are committed: nobody removes them before the rows are there.
        hold(session, delivered.digests)
        delivered.commit()
        job, attempt = self._claim.job_id, self._claim.attempt
        result, artifacts = delivered.result, delivered.artifacts
        if failure is None:
            return Jobs(session).succeed(
                job, attempt=attempt, now=_now(), result=result, artifacts=artifacts
            )
        return Jobs(session).fail(
            job, attempt=attempt, now=_now(), failure=failure, result=result, artifacts=artifacts
        )

    def _fail(self, failure: Failure) -> None:
        self._record(
            f"failed: {failure.code}",
            lambda session: Jobs(session).fail(
                self._claim.job_id, attempt=self._claim.attempt, now=_now(), failure=failure
            ),
        )

    def _record(self, how: str, change: Callable[[Session], bool]) -> None:
        if self._written(change):
            _log.info("%s %s", self._name, how)
            self.announce()
            self._checkpoints.forget()
        else:
            # It was asked to be canceled in its last moment, or taken while the database was away.
            self._give_up()

    def _written(self, change: Callable[[Session], bool]) -> bool:
        for wait_s in (*_RETRY_WAITS_S, None):
            try:
                with session_scope(self._place.engine) as session:
                    return change(session)
            except OperationalError:
                if wait_s is None:
                    raise
                _log.exception("%s could not be recorded; again in %s s", self._name, wait_s)
                time.sleep(wait_s)
        raise AssertionError("unreachable")

    def _give_back(self) -> None:
        """Leave the job to another worker. This one was told to stop; the job has no part in it."""
        job, attempt = self._claim.job_id, self._claim.attempt
        with session_scope(self._place.engine) as session:
            is_queued = Jobs(session).give_back(job, attempt=attempt, now=_now())
        if is_queued:
            _log.info("%s is given back", self._name)
            self.announce()
            self._place.send(job)
        else:
            self._give_up()  # It was asked to be canceled in its last moment.

    def _give_up(self) -> None:
        """Let go of the job: canceled if that was asked, else queued again while attempts last."""
        with session_scope(self._place.engine) as session:
            jobs = Jobs(session)
            job, attempt = self._claim.job_id, self._claim.attempt
            was_canceled = jobs.finish_cancel(job, attempt=attempt, now=_now())
            # An attempt that says it was last alive long ago is, from now on, a lost one.
            is_lost = not was_canceled and jobs.beat(job, attempt=attempt, now=LONG_AGO)
        _log.info("%s %s", self._name, "canceled" if was_canceled else "given up")
        if was_canceled:
            self.announce()
            self._checkpoints.forget()
        elif is_lost:
            self._place.release()


def _now() -> datetime:
    return datetime.now(UTC)
