"""A credential that is signed anew before it expires."""

from collections.abc import Iterator, Mapping
from typing import Final

import jwt

from proxy.core.clock import Clock

_RENEWAL_SHARE: Final = 0.5
"""Share of a token's lifetime after which the next request gets a new one."""


class SignedHeader(Mapping[str, str]):
    """One header with a JSON Web Token (HS256) of the key pair `ACCESS:SECRET`: issuer ACCESS, signed with SECRET.

    `form` is the header's value with `{key}` in the token's place. `lifetime` and `backdate` are seconds from now to
    `exp`, and from `nbf` to now.
    """

    def __init__(self, name: str, form: str, key: str, clock: Clock, *, lifetime: int, backdate: int) -> None:
        self._name = name
        self._form = form
        self._access, _, self._secret = key.partition(":")
        self._clock = clock
        self._lifetime = lifetime
        self._backdate = backdate
        self._value = ""
        self._renewal = 0.0
        """Seconds since the epoch from which a new token is made."""

    def __getitem__(self, name: str) -> str:
        if name != self._name:
            raise KeyError(name)
        now = int(self._clock.now())
        if not self._value or not self._renewal - self._lifetime <= now < self._renewal:
            claims = {"iss": self._access, "exp": now + self._lifetime, "nbf": now - self._backdate}
            self._value = self._form.replace("{key}", jwt.encode(claims, self._secret, algorithm="HS256"))
            self._renewal = now + self._lifetime * _RENEWAL_SHARE
        return self._value

    def __iter__(self) -> Iterator[str]:
        return iter((self._name,))

    def __len__(self) -> int:
        return 1
