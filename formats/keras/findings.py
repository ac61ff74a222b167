"""What is wrong with a configuration, before it is known which file it is in."""


class Finding(Exception):
    """Something that could run code, or that no honest file has; the message is the reason."""


class Unsupported(Exception):
    """Something that an honest file may have, and that is not taken; the message is the reason."""
