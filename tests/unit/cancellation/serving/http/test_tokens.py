"""Tokens: who is let in, and that no refusal gives a token away."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from cancellation.serving.http.tokens import (
    SCOPES,
    AcceptedTokens,
    Forbidden,
    TokenStore,
    Unauthorized,
    make_tokens_file,
)

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


NEW = "new-token-0123456789"


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (f"{FULL} verdict\n{NEW} verdict\n", 0o644, "found mode 644"),
        (f"{FULL} verdict\n{NEW} verdict\nshort feedback\n", 0o600, "line 3"),
        (f"{FULL} verdict policie\n{NEW} verdict\n", 0o600, "line 1"),
        (f"{FULL} verdict policy\n{FULL} verdict\n{NEW} verdict\n", 0o600, "line 2"),
    ],
)
def test_what_a_refused_file_takes_away_is_gone_and_what_it_adds_does_not_come(
    tokens_file: Path, text: str, mode: int, problem: str
) -> None:
    store = TokenStore.load(tokens_file)
    _write(tokens_file.parent, text, mode)
    store.reload_if_changed()
    assert problem in (store.refused or "")
    assert [caller.scopes for caller in store] == [{"verdict"}], "of the tokens of before one is named, with one scope"
    for token in (NARROW, NEW):
        with pytest.raises(Unauthorized):
            store.check(f"Bearer {token}", "verdict")


def test_a_file_that_is_made_private_again_is_in_force_with_the_same_content(tokens_file: Path) -> None:
    store = TokenStore.load(tokens_file)
    text = tokens_file.read_text() + f"{NEW} verdict\n"
    _write(tokens_file.parent, text, 0o644)
    store.reload_if_changed()
    assert len(store) == 2
    tokens_file.chmod(0o600)
    store.reload_if_changed()
    assert (len(store), store.refused) == (3, None)


@pytest.mark.parametrize(
    "put",
    [lambda _: None, os.mkfifo, os.mkdir, lambda path: path.write_text("\n")],
    ids=["nothing", "pipe", "folder", "empty"],
)
def test_a_file_that_goes_for_a_while_changes_nothing(tokens_file: Path, put: Callable[[Path], object]) -> None:
    store = TokenStore.load(tokens_file)
    text = tokens_file.read_text()
    tokens_file.unlink()
    put(tokens_file)
    assert not store.reload_if_changed()
    assert len(store) == 2
    assert "cannot be read" in (store.refused or "") or "found none" in (store.refused or "")
    if tokens_file.is_dir():
        tokens_file.rmdir()
    tokens_file.unlink(missing_ok=True)
    _write(tokens_file.parent, text)
    store.reload_if_changed()
    assert (len(store), store.refused) == (2, None)


def test_a_file_whose_tokens_are_all_behind_a_hash_puts_everybody_out(tokens_file: Path) -> None:
    store = TokenStore.load(tokens_file)
    _write(tokens_file.parent, f"# {FULL} verdict\n#{NARROW} feedback\n")
    store.reload_if_changed()
    assert (len(store), "found none" in (store.refused or "")) == (0, True)


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


def test_whoever_was_put_out_stays_out_when_a_replica_starts_beside_a_file_with_a_mistake(tokens_file: Path) -> None:
    folder, kept = tokens_file.parent, tokens_file.with_name("accepted")
    store = TokenStore.load(tokens_file, AcceptedTokens(kept))
    assert (kept.stat().st_mode & 0o777, FULL in kept.read_text()) == (0o600, False)
    _write(folder, f"{FULL} verdict\nshort feedback\n")
    store.reload_if_changed()
    # Named again, with all scopes, in a file that is refused as well: that takes nothing back.
    _write(folder, f"{FULL} verdict policy\n{NARROW} feedback\n{NEW} verdict\nshort feedback\n")
    store.reload_if_changed()
    for now in (store, TokenStore.load(tokens_file, AcceptedTokens(kept))):
        assert [caller.scopes for caller in now] == [{"verdict"}]
        assert "line 4" in (now.refused or "")
    tokens_file.unlink()
    assert len(TokenStore.load(tokens_file, AcceptedTokens(kept))) == 1
    _write(folder, f"{NEW} verdict\n")
    after = TokenStore.load(tokens_file, AcceptedTokens(kept))
    assert (len(after), after.check(f"Bearer {NEW}", "verdict").scopes, after.refused) == (1, {"verdict"}, None)


def test_an_editors_byte_order_mark_puts_nobody_out(tokens_file: Path) -> None:
    store = TokenStore.load(tokens_file)
    tokens_file.write_text(f"{FULL} verdict\n", encoding="utf-8-sig")
    store.reload_if_changed()
    assert (store.check(f"Bearer {FULL}", "verdict").scopes, store.refused) == ({"verdict"}, None)


@pytest.mark.parametrize("damage", ["", "zz verdict\n# end of tokens\n", f"{'0' * 64} verdict\n"])
def test_without_a_whole_record_of_who_was_let_in_a_bad_file_lets_nobody_start(tokens_file: Path, damage: str) -> None:
    kept = tokens_file.with_name("accepted")
    kept.write_text(damage)
    _write(tokens_file.parent, "short verdict\n")
    with pytest.raises(ValueError, match="line 1: expected a token of at least 16"):
        TokenStore.load(tokens_file, AcceptedTokens(kept))


def test_a_record_that_cannot_be_written_is_removed_since_it_may_hold_who_is_out(tokens_file: Path) -> None:
    kept = tokens_file.with_name("accepted")
    store = TokenStore.load(tokens_file, AcceptedTokens(kept))
    _write(tokens_file.parent, f"{FULL} verdict\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as a full disk
    try:
        store.reload_if_changed()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (len(store), [path.name for path in kept.parent.iterdir()]) == (1, ["tokens"])
    store.reload_if_changed()
    assert len(AcceptedTokens(kept).read() or {}) == 1
