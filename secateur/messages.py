"""What the service and the workers send each other. A message carries a job id alone."""

from urllib.parse import parse_qs, urlsplit

from secateur.models import MODEL_FORMATS, ModelFormat

RUN_JOB = "job.run"
QUEUE = "jobs"

SPECIAL_QUEUES = {
    model_format: f"{QUEUE}.{model_format}"
    for model_format, info in MODEL_FORMATS.items()
    if info.extra is not None
}
"""Queues of jobs on models that not every worker reads; only workers that do take from them."""


def queue_of(model_format: ModelFormat | None) -> str:
    """The queue of jobs on models of a format."""
    return QUEUE if model_format is None else SPECIAL_QUEUES.get(model_format, QUEUE)


def job_channel(job_id: str) -> str:
    """The publish-subscribe channel on which changes of a job, or of a sweep, are announced."""
    return f"secateur:job:{job_id}"


def redis_url(broker_url: str) -> str | None:
    """redis-py's URL for a Celery broker URL; None for a broker that is not Redis."""
    url = urlsplit(broker_url)
    if url.scheme in ("redis", "rediss", "unix"):
        return broker_url
    if url.scheme == "redis+socket":
        database = parse_qs(url.query).get("virtual_host", ["0"])[0]
        return f"unix://{url.path}?db={database}"
    return None
