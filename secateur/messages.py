"""Names of what the service and the workers send each other. A message carries a job id alone."""

RUN_JOB = "job.run"
QUEUE = "jobs"


def job_channel(job_id: str) -> str:
    """The publish-subscribe channel on which changes of a job are announced."""
    return f"secateur:job:{job_id}"
