"""What the service and the workers send each other. A message carries a job id alone."""

from urllib.parse import parse_qs, urlsplit

RUN_JOB = "job.run"
QUEUE = "jobs"


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
