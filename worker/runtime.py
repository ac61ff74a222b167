"""The composition root: what lives as long as the worker does."""

from celery import Celery

from secateur.models import ModelFormat
from store.file_blobs import FileBlobs
from store.jobs import Jobs
from store.session import make_engine, read_scope
from worker.announce import Announcer
from worker.attempt import Workplace
from worker.computes import Probe
from worker.functions import FUNCTIONS
from worker.launch import Launcher
from worker.messages import Messages
from worker.reads import readable_formats
from worker.scratch import remove_leftovers
from worker.settings import WorkerSettings
from worker.sweep import Sweeper
from worker.wake import Wakes


class Runtime:
    """Made with the application; `start` and `stop` come from the worker's own life."""

    def __init__(self, settings: WorkerSettings, app: Celery, launcher: Launcher) -> None:
        engine = make_engine(settings)
        blobs = FileBlobs(settings.blob_dir)
        wakes = Wakes()
        self._settings = settings
        self._engine = engine
        self._announcer = Announcer(settings.broker_url, on_change=wakes.wake)

        def format_of(job_id: str) -> ModelFormat | None:
            with read_scope(engine) as session:
                return Jobs(session).model_format(job_id)

        messages = Messages(app, format_of, readable_formats())
        self._probe = Probe(settings.device)
        self._sweeper = Sweeper(
            settings, engine, blobs, messages, self._announcer.announce, self._probe.precisions
        )
        self._launcher = launcher
        self.place = Workplace(
            settings=settings,
            engine=engine,
            blobs=blobs,
            launcher=launcher,
            wakes=wakes,
            announce=self._announcer.announce,
            send=messages.send,
            release=self._sweeper.release,
            send_next=self._sweeper.send_next,
            functions=FUNCTIONS,
        )

    def start(self) -> None:
        """Get ready for messages.

        Raises:
            LaunchError: The engine cannot be imported; a worker without it would be of no use.
        """
        remove_leftovers(self._settings.scratch_dir)
        self._probe.begin()
        self._launcher.warm_up()
        self._announcer.start()
        self._sweeper.start()

    def stop(self) -> None:
        """Have running attempts end. Their jobs are queued again, for other workers."""
        self.place.wakes.stop()
        self._sweeper.close()

    def close(self) -> None:
        """Let go of everything but the launcher, when no task runs any more."""
        self._announcer.close()
        self._engine.dispose()
