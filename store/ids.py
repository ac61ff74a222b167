"""Ids: a prefix that says what it names, and 120 random bits."""

import re
import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing looks like another.
_LENGTH = 24
_FORM = re.compile(rf"[a-z]{{3}}_[{_ALPHABET}]{{{_LENGTH}}}")


def new_id(prefix: str) -> str:
    """A fresh id, such as `job_0f8n2q4k6m8p0r2t4v6x8z0b`."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def is_id(text: str) -> bool:
    """Whether `text` can be an id at all. What cannot is not asked of the database."""
    return _FORM.fullmatch(text) is not None
