"""What a criterion gets to see."""

from dataclasses import dataclass

from torch import Generator, Tensor

from worker.engine.graph.coupling import ChannelGroup
from worker.engine.program import Program


@dataclass(frozen=True)
class Subject:
    """One channel group to score.

    Attributes:
        program: Read, never written.
        group: Whose channels get scores.
        place: Where each channel of the coupling stands in the group; int64,
            ``(channel_count + 1,)``, -1 for the channels of other groups and for the fixed.
        generator: Seeded by the job, for criteria that draw; on the CPU.
    """

    program: Program
    group: ChannelGroup
    place: Tensor
    generator: Generator
