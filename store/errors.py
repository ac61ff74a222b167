"""What can go wrong in the store.

* StoreError
  - BadCursor             a page cursor that this store did not make
  - BlobError
    + BlobNotFound        no blob has this digest
    + DigestMismatch      what was written is not what was announced
  - IdempotencyMismatch   the key was used before, for something else
"""


class StoreError(Exception):
    """Base of all of them."""


class BadCursor(StoreError):
    """A page cursor that this store did not make."""

    def __init__(self, cursor: str) -> None:
        self.cursor = cursor
        super().__init__("not a cursor of this list: pass `next_cursor` as it was given")


class BlobError(StoreError):
    """Base of what goes wrong with blobs."""


class BlobNotFound(BlobError):
    """No blob has this digest."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(f"no blob with sha256 {digest!r}")


class DigestMismatch(BlobError):
    """What was written is not what was announced."""

    def __init__(self, *, expected: str, actual: str) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(f"expected sha256 {expected}, got {actual}")


class IdempotencyMismatch(StoreError):
    """The key was used before, for something else."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"idempotency key {key!r} was used before with another payload")
