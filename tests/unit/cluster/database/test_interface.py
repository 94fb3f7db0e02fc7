"""A database's address: shown as it is, and refused with a password in it."""

from __future__ import annotations

import pytest

from cluster.database.interface import check_address


def test_an_address_is_shown_without_its_parameters() -> None:
    assert check_address("postgresql://verdicts@db:5432/live?sslmode=verify-full") == "verdicts@db:5432/live"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://verdicts:secret-1@db/live", "PGPASSFILE"),  # pragma: allowlist secret
        ("postgresql://verdicts@db/live?password=secret-1", "PGPASSFILE"),
        ("postgresql://verdicts@db/live?sslpassword=secret-1", "PGPASSFILE"),
        ("mysql://verdicts:secret-1@db/live", "expected postgresql://"),  # pragma: allowlist secret
        ("secret-1", "expected postgresql://"),
    ],
)
def test_a_password_in_it_is_refused_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        check_address(url)
    assert "secret-1" not in str(refused.value)
