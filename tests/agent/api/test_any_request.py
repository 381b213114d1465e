"""Any bytes on the TCP port: no 500, no change of state, and the next request is served.

``make fuzz`` does the same at length (``tests/fuzz``); what it found is here by name.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.one_listener import OneListener, open_one_listener


@pytest.fixture
def listener() -> Iterator[OneListener]:
    with open_one_listener() as listener:
        yield listener


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=st.binary(max_size=600))
def test_any_bytes_cause_no_error_and_no_change(listener: OneListener, script: bytes) -> None:
    listener.connect(script)


def test_a_head_request_with_an_unreadable_body_is_a_bad_request(listener: OneListener) -> None:
    request = b"HEAD /info HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n"
    assert listener.say([request]).startswith(b"HTTP/1.1 400 ")
    listener.connect(b"")
