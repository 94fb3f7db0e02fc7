"""Tokens: who is let in, and that no refusal gives a token away."""

from __future__ import annotations

from pathlib import Path

import pytest

from cancellation.serving.http.tokens import SCOPES, Forbidden, TokenStore, Unauthorized, make_tokens_file

FULL, NARROW = "full-token-0123456789", "narrow-token-0123456789"


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    return _write(tmp_path, f"# ours\n\n{FULL} verdict feedback policy appeal review\n{NARROW}\tfeedback\n")


def _write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "tokens"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_known_token_with_the_scope_is_let_in(tokens_file: Path, scheme: str) -> None:
    caller = TokenStore.load(tokens_file).check(f"{scheme} {FULL}", "verdict")
    assert caller.scopes == set(SCOPES)
    assert FULL not in repr(caller)


def test_callers_have_names_of_their_own_that_stay(tokens_file: Path) -> None:
    names = [caller.name for caller in TokenStore.load(tokens_file)]
    assert len(set(names)) == 2
    assert names == [caller.name for caller in TokenStore.load(tokens_file)]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {FULL}",
        FULL,
        f"Bearer {FULL}x",
        f"Bearer {FULL[:-1]}",
        "Bearer \u0e01\ud800",
    ],
)
def test_anybody_else_is_unauthorized_and_is_not_quoted(tokens_file: Path, header: str | None) -> None:
    with pytest.raises(Unauthorized) as refusal:
        TokenStore.load(tokens_file).check(header, "verdict")
    assert FULL[:-1] not in str(refusal.value)


def test_a_token_without_the_scope_is_forbidden(tokens_file: Path) -> None:
    store = TokenStore.load(tokens_file)
    assert store.check(f"Bearer {NARROW}", "feedback").scopes == {"feedback"}
    with pytest.raises(Forbidden, match="expected a token with scope verdict"):
        store.check(f"Bearer {NARROW}", "verdict")


def test_a_scope_nobody_knows_is_our_own_mistake(tokens_file: Path) -> None:
    with pytest.raises(ValueError, match="scope 'admin': expected one of verdict, feedback, policy"):
        TokenStore.load(tokens_file).check(f"Bearer {FULL}", "admin")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a line with token and scopes, found none"),
        ("# only a comment\n", "expected a line with token and scopes, found none"),
        ("short verdict\n", "line 1: expected a token of at least 16"),
        (f"\n{FULL}\n", "line 2: expected scopes behind the token"),
        (f"{FULL} verdict admin\n", "line 1: .* found another word as scope 2"),
        (f"{FULL} {NARROW}\n", "line 1: .* found another word as scope 1"),
        (f"{FULL} verdict\n{FULL} policy\n", "line 2: expected each token once"),
        ("\u0e01" * 20 + " verdict\n", "line 1: expected a token of at least 16"),
    ],
)
def test_a_bad_file_is_refused_by_line_without_its_tokens(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refusal:
        TokenStore.load(_write(tmp_path, text))
    assert not any(token in str(refusal.value) for token in (FULL, NARROW, "short", "admin"))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o606])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ValueError, match=rf"expected no access for others, found mode {mode:o}; chmod 600 it"):
        TokenStore.load(_write(tmp_path, f"{FULL} verdict\n", mode))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone: cannot be read \(FileNotFoundError\)"):
        TokenStore.load(tmp_path / "gone")
    path = _write(tmp_path, "")
    path.write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(ValueError, match="cannot be read"):
        TokenStore.load(path)


def test_a_made_file_is_private_has_all_scopes_and_is_never_replaced(tmp_path: Path) -> None:
    path = make_tokens_file(tmp_path / "new" / "tokens")
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_text().splitlines()[1].split()[0]
    store = TokenStore.load(path)
    assert [store.check(f"Bearer {token}", scope).scopes for scope in SCOPES] == [set(SCOPES)] * len(SCOPES)
    with pytest.raises(FileExistsError):
        make_tokens_file(path)
    assert list(path.parent.iterdir()) == [path]
    assert make_tokens_file(tmp_path / "other").read_text() != path.read_text()
