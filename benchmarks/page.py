"""Parts of a page that commands make, between marks; the rest is written by hand."""

from pathlib import Path

_END = "<!-- made until here -->"


def put(page: Path, command: str, lines: list[str]) -> None:
    """Replace what a command made before.

    Raises:
        ValueError: The page has no marks of this command.
    """
    begin = f"<!-- made by `{command}` -->"
    before, mark, rest = page.read_text().partition(begin)
    _, end, after = rest.partition(_END)
    if not mark or not end:
        raise ValueError(f"{page} has no line {begin} with a line {_END} after it")
    text = "\n".join(lines)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{_END}{after}")
