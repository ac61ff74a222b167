"""What a worker may be told by its environment."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from store.settings import StoreSettings
from store.slots import SWEEP_JOBS_MAX

GIB = 2**30


def _scratch_in(validated: dict[str, Any]) -> Path:
    folder: Path = validated["data_dir"] / "scratch"
    return folder


class WorkerSettings(StoreSettings):
    """Read from the environment, each name with `SECATEUR_` before it."""

    model_config = SettingsConfigDict(env_prefix="SECATEUR_", frozen=True)

    broker_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis or Valkey that carries messages and announcements: `redis://`, "
        "`rediss://`, or `redis+socket:///path/to.sock`.",
    )
    scratch_dir: Path = Field(
        default_factory=_scratch_in,
        description="Folder of the attempts' temporary files, as large as the models and what "
        "is made of them; by default in the data folder.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where models run: `cpu`, `cuda`, `cuda:1`; `auto` takes a GPU if there is "
        "one.",
    )
    heartbeat_s: float = Field(
        default=2.0,
        gt=0,
        description="Seconds between two signs of life of a running attempt. A cancellation whose "
        "announcement was lost is noticed after this long.",
    )
    silent_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds without a sign of life after which a job is taken from its worker.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        description="How many attempts a job may lose to dying workers before it fails as "
        "`resource.worker_lost`.",
    )
    sweep_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds between two looks at what was lost: silent jobs, lost messages.",
    )
    waiting_s: float = Field(
        default=60.0,
        gt=0,
        description="Seconds in the queue after which a job's message is sent again.",
    )
    sweep_jobs_max: int = Field(
        default=SWEEP_JOBS_MAX,
        ge=1,
        description="Jobs of sweeps that run at once, over all workers: fewer than there are "
        "workers leaves some for other jobs. The same for every worker.",
    )
    progress_s: float = Field(
        default=0.25,
        ge=0,
        description="Shortest time in seconds between two writes of progress within a stage.",
    )
    checkpoint_s: float = Field(
        default=60.0,
        ge=0,
        description="Shortest time in seconds between two checkpoints, from which a job that loses "
        "its worker goes on. Each takes as many bytes as the model and its optimizer.",
    )
    stop_grace_s: float = Field(
        default=5.0,
        ge=0,
        description="Seconds between asking a child process to stop (SIGTERM) and killing it.",
    )
    child_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Memory that one attempt may use; 0 is nine tenths of the machine's "
        "or of the container's.",
    )
    child_file_bytes: int = Field(
        default=64 * GIB, ge=2**20, description="Size of the largest file that an attempt writes."
    )

    @field_validator("scratch_dir")
    @classmethod
    def _scratch_is_absolute(cls, path: Path) -> Path:
        return path.absolute()
