import socket
from collections.abc import Iterator

import pytest

from portal.embedded.errors import EmbeddedError
from portal.embedded.ports import LOOPBACK, choose_port, describe_port_owner, find_free_port, is_port_free


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_someone_listens_on_is_not_free(taken_port: int) -> None:
    assert not is_port_free(LOOPBACK, taken_port)
    assert is_port_free(LOOPBACK, find_free_port())


def test_the_next_free_port_is_chosen_when_the_preferred_one_is_taken(taken_port: int) -> None:
    chosen = choose_port(LOOPBACK, preferred=taken_port)
    assert chosen != taken_port
    assert is_port_free(LOOPBACK, chosen)


def test_any_port_is_chosen_when_all_near_the_preferred_one_are_taken(taken_port: int) -> None:
    assert is_port_free(LOOPBACK, choose_port(LOOPBACK, preferred=taken_port, tries=1))


def test_a_free_preferred_port_is_kept() -> None:
    preferred = find_free_port()
    assert choose_port(LOOPBACK, preferred=preferred) == preferred


def test_an_address_of_another_machine_is_an_error_that_names_it() -> None:
    with pytest.raises(EmbeddedError, match=r"203\.0\.113\.7:8000: Cannot assign"):
        is_port_free("203.0.113.7", 8000)


def test_the_owner_of_a_port_is_named(taken_port: int) -> None:
    assert "python" in describe_port_owner(taken_port)


def test_the_owner_of_a_free_port_is_not_invented() -> None:
    assert describe_port_owner(find_free_port()) == "another process"
