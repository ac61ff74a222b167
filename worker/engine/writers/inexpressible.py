"""When another tool's format has no words for a program."""


class InexpressibleError(Exception):
    """The program cannot be said in a format; the message is the reason, and names the layer."""
