"""Bearer tokens: who may ask for verdicts, send feedback, read the policy, appeal, decide on appeals."""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cluster.logs import LastingFault
from cluster.serving.service import regular_file

logger = logging.getLogger(__name__)

SCOPES = ("verdict", "feedback", "policy", "appeal", "review")

_MIN_LENGTH = 16
_CHARACTERS = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what RFC 6750 allows behind "Bearer"
_END = "# end of tokens"
_HEADER = f"# token, then its scopes: {' '.join(SCOPES)}\n"


class Unauthorized(PermissionError):  # noqa: N818 - as HTTP calls it
    """No token, or one that is not known: 401."""


class Forbidden(PermissionError):  # noqa: N818
    """A known token without the scope that is needed: 403."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. `name` may be logged: it tells tokens apart and gives none away."""

    name: str
    scopes: frozenset[str]


class TokenStore:
    """The tokens of one file, read anew when it changes. Holds their digests only."""

    def __init__(self, path: Path, kept: AcceptedTokens | None = None) -> None:
        self._path, self._kept = Path(path), kept
        self.refused: str | None = None
        """Why the file that lies there now is not in force; names no token."""
        self._content: str | None = None
        before = None if kept is None else kept.read()
        if before is None:
            self._content, mode = _read(self._path)
            _check_private(self._path, mode)
            before = _parse(self._content, self._path)
        self._callers = before
        self.reload_if_changed()

    @classmethod
    def load(cls, path: Path, kept: AcceptedTokens | None = None) -> TokenStore:
        """Read a file of lines `token scope scope…`; blank lines and those that begin with # are passed over.

        With `kept`, one that is refused leaves in force what was accepted last, less what it takes away, as while a
        replica runs: the next that dies must come back although somebody has made a mistake since.

        Raises:
            ValueError: If it cannot be read, others may read it, or a line is refused, and no older one was kept; no
                token is named.
        """
        return cls(path, kept)

    def reload_if_changed(self) -> bool:
        """Take over a changed file; True if it was changed.

        One that is refused, for what it says or since others may read it, lets nobody new in; whoever no longer stands
        in it is out all the same, and so is each scope that was taken from a token: taking away must not wait for the
        next line's spelling. One that cannot be read, or is empty, as after a save on a full disk, leaves all as it is.
        """
        try:
            content, mode = _read(self._path)
        except ValueError as error:
            self._refuse(error)
            return False
        changed = content != self._content
        try:
            _check_private(self._path, mode)
            if changed or self.refused is not None:
                self._callers = _parse(content, self._path)
            self.refused = None
        except ValueError as error:
            self._callers = _still_named(self._callers, content)
            self._refuse(error)
        self._content = content
        if self._kept is not None:
            self._kept.write(self._callers)
        return changed

    def _refuse(self, error: ValueError) -> None:
        if self.refused != str(error):
            logger.error("%s; nobody new is let in, those accepted before stay", error)
        self.refused = str(error)

    def check(self, authorization_header: str | None, scope: str) -> Caller:
        """Find the caller of a request; every token is compared, so that time tells nothing.

        Raises:
            Unauthorized: If the header holds no known bearer token.
            Forbidden: If the token lacks the scope.
        """
        if scope not in SCOPES:
            raise ValueError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
        scheme, _, token = (authorization_header or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("expected an Authorization header with a bearer token, found none")
        given, found = _digest(token.strip()), None
        for digest, caller in self._callers.items():
            if hmac.compare_digest(digest, given):
                found = caller
        if found is None:
            raise Unauthorized("expected a known bearer token, found another")
        if scope not in found.scopes:
            raise Forbidden(f"expected a token with scope {scope}, found one without")
        return found

    def __len__(self) -> int:
        return len(self._callers)

    def __iter__(self) -> Iterator[Caller]:
        return iter(self._callers.values())


class AcceptedTokens:
    """Digests and scopes of those who are let in, in a file for the replica that comes after this one.

    It gives no token away, and nobody is let in by it whom the last look at the tokens' file had put out: where it
    cannot be written it is removed, and then a start needs a tokens' file without a mistake.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, None  # type: Path, str | None
        self._fault = LastingFault(logger, str(path))

    def read(self) -> dict[bytes, Caller] | None:
        """Give what was written last; None if nothing was, or it is not whole."""
        try:
            lines = self._path.read_text(encoding="ascii").splitlines()
            if lines[-1:] != [_END]:
                return None
            found = (line.split() for line in lines[:-1])
            return {digest: _caller(digest, scopes) for digest, scopes in ((bytes.fromhex(a), b) for a, *b in found)}
        except (OSError, ValueError):
            return None

    def write(self, callers: Mapping[bytes, Caller]) -> None:
        """Write it anew if it has changed, whole or not at all."""
        lines = (" ".join([digest.hex(), *sorted(caller.scopes)]) for digest, caller in callers.items())
        text = "\n".join([*lines, _END, ""])
        if text == self._written:
            return
        try:
            temporary = _write_private(self._path, text)
            temporary.replace(self._path)
            self._written = text
            self._fault.works()
        except OSError as error:
            self._written = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._fault.failed(f"{self._path}: cannot be written ({error.strerror or error}); look at the disk")


def make_tokens_file(path: Path) -> Path:
    """Write a file with one new token that has all scopes, readable by its owner only; give its path.

    Raises:
        FileExistsError: If there is a file; a token that is in use must not vanish.
    """
    path = Path(path)
    temporary = _write_private(path, f"{_HEADER}{secrets.token_urlsafe(32)} {' '.join(SCOPES)}\n")
    try:
        path.hardlink_to(temporary)  # whole or not at all: another replica may be about to read it
    finally:
        temporary.unlink()
    return path


def _write_private(path: Path, text: str) -> Path:
    """Write a file beside one, for its owner only, and wait for the disk; give its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink()
        raise
    return temporary


def _parse(content: str, path: Path) -> dict[bytes, Caller]:
    callers: dict[bytes, Caller] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        token, *scopes = line.split()
        _check_line(f"tokens file {path} line {number}", token, scopes)
        digest = _digest(token)
        if digest in callers:
            raise ValueError(f"tokens file {path} line {number}: expected each token once, found it a second time")
        callers[digest] = _caller(digest, scopes)
    if not callers:
        raise _nobody(path)
    return callers


def _still_named(callers: Mapping[bytes, Caller], content: str) -> dict[bytes, Caller]:
    """Keep of callers and their scopes what a refused file names as well, each time that it names the token."""
    kept: dict[bytes, Caller] = {}
    for line in content.splitlines():
        token, *scopes = line.split() or [""]
        digest = _digest(token)
        before = kept.get(digest) or callers.get(digest)
        if before is not None:
            kept[digest] = Caller(before.name, before.scopes & {*scopes})
    return kept


def _read(path: Path) -> tuple[str, int]:
    """Give the text of a file that is not empty, and its permissions."""
    try:
        # An editor's mark before the first token puts nobody out.
        with open(path, encoding="utf-8-sig", opener=regular_file) as file:
            content, mode = file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"tokens file {path}: cannot be read ({type(error).__name__})") from None
    if not content.strip():
        raise _nobody(path)
    return content, mode


def _nobody(path: Path) -> ValueError:
    return ValueError(f"tokens file {path}: expected a line with token and scopes, found none")


def _check_private(path: Path, mode: int) -> None:
    if mode & stat.S_IRWXO:  # the group may: that is how an orchestrator hands a secret to a service
        raise ValueError(f"tokens file {path}: expected no access for others, found mode {mode:o}; chmod 600 it")


def _check_line(place: str, token: str, scopes: Sequence[str]) -> None:
    if len(token) < _MIN_LENGTH or not _CHARACTERS.fullmatch(token):
        raise ValueError(
            f"{place}: expected a token of at least {_MIN_LENGTH} letters, digits and -._~+/=, found another first word"
        )
    if not scopes:
        raise ValueError(f"{place}: expected scopes behind the token ({', '.join(SCOPES)}), found none")
    # A misplaced token would stand among the scopes: its place is named, not the word.
    for number, scope in enumerate(scopes, 1):
        if scope not in SCOPES:
            raise ValueError(f"{place}: expected scopes of {', '.join(SCOPES)}, found another word as scope {number}")


def _caller(digest: bytes, scopes: Sequence[str]) -> Caller:
    return Caller(f"token-{digest.hex()[:8]}", frozenset(scopes))


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
