"""What an exception in a child process is called outside."""

from collections.abc import Iterator

import torch

from formats.errors import DatasetFormatError, FormatError
from secateur.failures import Failure, FailureCode
from worker import resources
from worker.engine.errors import EngineError

# What PyTorch's CPU allocator says, in a plain RuntimeError, when the kernel gives it nothing.
_CPU_ALLOCATOR = "DefaultCPUAllocator"


def failure_of(error: BaseException, *, memory_bytes: int) -> Failure:
    """Name an exception. Only our own messages reach users: others may hold paths or data."""
    for cause in _chain(error):
        # Looked for in what an error was raised from too: a lack of memory while a model is read
        # is no word about the model.
        match cause:
            case torch.OutOfMemoryError():
                return resources.out_of_gpu_memory()
            case MemoryError():
                return resources.out_of_memory(memory_bytes)
            case RuntimeError() if _CPU_ALLOCATOR in str(cause):
                return resources.out_of_memory(memory_bytes)
    match error:
        case EngineError():
            return Failure.of(FailureCode(error.code), str(error), error.pointer)
        case DatasetFormatError():
            return Failure.of(FailureCode.DATA_UNREADABLE, str(error))
        case FormatError():
            known = {code.value: code for code in FailureCode}
            return Failure.of(known.get(error.code, FailureCode.MODEL_UNREADABLE), str(error))
        case _:
            return resources.internal()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, and all that it came from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
