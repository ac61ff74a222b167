"""What the service and the workers agree on before they talk."""

import pytest

from secateur.messages import redis_url


@pytest.mark.parametrize(
    ("broker_url", "expected"),
    [
        ("redis://:secret@host:6379/1", "redis://:secret@host:6379/1"),
        ("rediss://host/0", "rediss://host/0"),
        ("redis+socket:///run/a.sock", "unix:///run/a.sock?db=0"),
        ("redis+socket:///run/a.sock?virtual_host=3", "unix:///run/a.sock?db=3"),
        ("amqp://host", None),
        ("memory://", None),
    ],
)
def test_a_celery_url_is_read_as_redis_py_wants_it(broker_url, expected):
    assert redis_url(broker_url) == expected
