import socket
from collections.abc import Iterator

import pytest

from portal.embedded.errors import EmbeddedError
from portal.embedded.ports import LOOPBACK, describe_port_owner, find_free_port, listen_near, listen_on


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_someone_listens_on_is_not_given(taken_port: int) -> None:
    assert listen_on(LOOPBACK, taken_port) is None


def test_a_port_that_was_given_is_given_to_nobody_else() -> None:
    port = find_free_port()
    listener = listen_on(LOOPBACK, port)
    assert listener is not None
    with listener:
        assert listener.getsockname() == (LOOPBACK, port)
        assert listen_on(LOOPBACK, port) is None
    again = listen_on(LOOPBACK, port)
    assert again is not None
    again.close()


def test_the_next_free_port_is_taken_when_the_preferred_one_is_not_free(taken_port: int) -> None:
    with listen_near(LOOPBACK, preferred=taken_port) as listener:
        assert listener.getsockname()[1] > taken_port


def test_any_port_is_taken_when_all_near_the_preferred_one_are_in_use(taken_port: int) -> None:
    with listen_near(LOOPBACK, preferred=taken_port, tries=1) as listener:
        assert listener.getsockname()[1] != taken_port


def test_a_free_preferred_port_is_kept() -> None:
    preferred = find_free_port()
    with listen_near(LOOPBACK, preferred=preferred) as listener:
        assert listener.getsockname()[1] == preferred


def test_an_address_of_another_machine_is_an_error_that_names_it() -> None:
    with pytest.raises(EmbeddedError, match=r"203\.0\.113\.7:8000: Cannot assign"):
        listen_on("203.0.113.7", 8000)


def test_the_owner_of_a_port_is_named(taken_port: int) -> None:
    assert "python" in describe_port_owner(taken_port)


def test_the_owner_of_a_free_port_is_not_invented() -> None:
    assert describe_port_owner(find_free_port()) == "another process"
