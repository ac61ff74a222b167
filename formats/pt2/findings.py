"""What a check found wrong, before it is known in which member of which file."""


class Finding(Exception):
    """A value that may not be there.

    The check that finds it knows the reason; each container around it adds where it is.

    Args:
        reason: What is wrong, with the value, and what is allowed.
        is_unsupported: An honest file may be like this; it is no sign of an attack.
    """

    def __init__(self, reason: str, *, is_unsupported: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_unsupported = is_unsupported
        self.path = ""

    def inside(self, step: str) -> "Finding":
        """Say one step more about where it was found; returns itself."""
        self.path = f"{step}{self.path}"
        return self

    def __str__(self) -> str:
        return f"{self.path.lstrip('.')}: {self.reason}" if self.path else self.reason
