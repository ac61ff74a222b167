"""Many short words, as one text."""


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())
