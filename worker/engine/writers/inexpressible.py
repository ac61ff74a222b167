"""What a format cannot say."""


class InexpressibleError(Exception):
    """A format has no way to say what the program computes, or a part of it is missing here.

    No end of a job: the others of its files are delivered, with this reason beside them.
    """
