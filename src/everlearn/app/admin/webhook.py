"""Sends JSON to an address that somebody configured, and to no other: it can be no way into the network of the server.

The name is resolved once for each attempt, every address that it has is checked, and the connection goes to an address
that was checked: a name that is given another address in between leads nowhere else. Redirects and proxies are not
followed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
import ssl
from ipaddress import IPv4Address, IPv6Address

import httpx

from everlearn.errors import ConfigError

TIMEOUT = 10.0  # seconds for an attempt, all in all
SIGNATURE = "X-Everlearn-Signature"

_FIX = "set private = true under [serve] if that is meant"
_CLOUD = ipaddress.ip_address("168.63.129.16")  # Azure tells machines about themselves at this public address
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address is in its last 32 bits
_OLD = ipaddress.ip_network("::/96")  # IPv4-compatible addresses


class Undelivered(Exception):
    """An attempt failed; `status` is what was replied, 0 where nothing was; `wait` the seconds that were asked for."""

    def __init__(self, why: str, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(why)
        self.status = status
        self.wait = wait


class Webhook:
    """Posts to one URL; `secret` signs what is posted, `private` allows addresses that are not public.

    Raises ConfigError for a URL that is none, or that names an address which is not allowed.
    """

    def __init__(
        self, url: str, secret: str = "", private: bool = False, trusted: ssl.SSLContext | None = None
    ) -> None:
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"serve.webhook: this is no address ({error}); expected https://HOST/PATH") from error
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise ConfigError(f"serve.webhook: got scheme {self._url.scheme!r}, expected https://HOST/PATH")
        self.host = self._url.host
        self._secret = secret.encode()
        self._private = private
        self._trusted = trusted
        literal = _address(self.host)
        if literal is not None and not private and not is_public(literal):
            raise ConfigError(f"serve.webhook: {self.host} is not a public address; {_FIX}")

    async def post(self, content: bytes) -> None:
        """Post JSON once; returns when it was taken (2xx), raises Undelivered otherwise."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._post(content, await self._addresses())
        except TimeoutError:
            raise Undelivered(f"{self.host} did not answer within {TIMEOUT:g} s") from None

    async def _addresses(self) -> list[str]:
        """The addresses of the host, all of which are allowed."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self.host, self._url.port or 0, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except (OSError, UnicodeError) as error:
            raise Undelivered(f"the name {self.host} cannot be resolved: {error}") from error
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        for text in addresses:
            address = _address(text)
            if not self._private and (address is None or not is_public(address)):
                raise Undelivered(f"{self.host} is at {text}, which is not a public address; {_FIX}")
        return addresses

    async def _post(self, content: bytes, addresses: list[str]) -> None:
        if self._trusted is None and self._url.scheme == "https":
            self._trusted = await asyncio.to_thread(httpx.create_ssl_context)  # reads the authorities' certificates
        headers = {"host": self._url.netloc.decode(), "content-type": "application/json", "user-agent": "everlearn"}
        if self._secret:
            headers[SIGNATURE] = sign(content, self._secret)
        timeout = httpx.Timeout(TIMEOUT, connect=TIMEOUT / 2)
        failure = Undelivered(f"the name {self.host} has no address")
        async with httpx.AsyncClient(verify=self._trusted or False, trust_env=False, timeout=timeout) as client:
            for address in addresses:
                url = self._url.copy_with(host=address)
                # The certificate is checked against the name, though the connection goes to the address.
                request = client.build_request("POST", url, content=content, headers=headers)
                request.extensions["sni_hostname"] = self.host
                try:
                    response = await client.send(request, stream=True, follow_redirects=False)
                except httpx.ConnectError as error:
                    failure = Undelivered(f"{self.host} at {address} cannot be reached: {error}")
                    continue
                except httpx.TransportError as error:
                    raise Undelivered(f"{self.host} did not answer: {error or type(error).__name__}") from error
                await response.aclose()
                if not response.is_success:
                    asked = response.headers.get("retry-after", "")
                    wait = float(asked) if asked.isascii() and asked.isdigit() else 0.0
                    raise Undelivered(f"{self.host} answered {response.status_code}", response.status_code, wait)
                return
        raise failure


def sign(content: bytes, secret: bytes) -> str:
    """The signature of a body: HMAC-SHA256 with a secret that both sides know.

    >>> sign(b"{}", b"key")[:20]
    'sha256=a777724d943eb'
    """
    return "sha256=" + hmac.new(secret, content, hashlib.sha256).hexdigest()


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is out on the internet: not private, loopback, link-local, reserved, or of a cloud's own.

    >>> [is_public(ipaddress.ip_address(one)) for one in ("93.184.216.34", "10.0.0.1", "::ffff:127.0.0.1")]
    [True, False, False]
    """
    inner = _inner(address) if isinstance(address, IPv6Address) else None
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved and address != _CLOUD


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to."""
    if address in _TRANSLATED or address in _OLD:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
