"""Failures that are about the machine, and the one that says nothing: the words for users."""

from secateur.failures import Failure, FailureCode

_GIB = 2**30


def out_of_memory(memory_bytes: int) -> Failure:
    return Failure.of(
        FailureCode.RESOURCE_OUT_OF_MEMORY,
        f"The job needed more than the {memory_bytes / _GIB:.1f} GiB of memory that an attempt may "
        "use here. Use smaller batches, or a worker with more memory.",
    )


def out_of_gpu_memory() -> Failure:
    return Failure.of(
        FailureCode.RESOURCE_OUT_OF_MEMORY,
        "The job needed more memory than the GPU has. Use smaller batches, or a larger GPU.",
    )


def time_limit(run_timeout_s: int) -> Failure:
    return Failure.of(
        FailureCode.RESOURCE_TIME_LIMIT,
        f"The attempt ran longer than run_timeout_s, which is {run_timeout_s}. Allow more time, or "
        "ask for less: fewer epochs, fewer rows, fewer latency rounds.",
    )


def internal() -> Failure:
    return Failure.of(
        FailureCode.INTERNAL,
        "Something went wrong that is not about your files or your spec. The worker's log holds "
        "the details under the id of this job; trying again may help.",
    )
