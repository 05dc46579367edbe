"""Post JSON to the configured URL, without letting that URL reach the server's private network.

The host name is resolved once per attempt, and all its addresses are checked. The connection goes to a checked address,
so a name that changes its address in between leads nowhere else. Redirects and proxies are not followed.
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

TIMEOUT = 10.0  # seconds for a whole attempt
SIGNATURE = "X-Everlearn-Signature"

_FIX = "set private = true under [serve] to allow it"
_CLOUD = ipaddress.ip_address("168.63.129.16")  # the metadata service of Azure is at this public address
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address is in its last 32 bits
_COMPATIBLE = ipaddress.ip_network("::/96")  # IPv4-compatible addresses


class Undelivered(Exception):
    """A failed attempt: `status` of the reply, 0 without one, and `wait`, the seconds in its Retry-After."""

    def __init__(self, reason: str, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.wait = wait


class Webhook:
    """A webhook at one URL; `secret` signs the bodies, and `private` allows addresses that are not public.

    Raises ConfigError for an invalid URL, and for a URL with an address that is not allowed.
    """

    def __init__(
        self, url: str, secret: str = "", private: bool = False, trusted: ssl.SSLContext | None = None
    ) -> None:
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"serve.webhook: got an invalid URL ({error}); expected https://HOST/PATH") from error
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise ConfigError(f"serve.webhook: got scheme {self._url.scheme!r}; expected https://HOST/PATH")
        self.host = self._url.host
        self._secret = secret.encode()
        self._private = private
        self._trusted = trusted
        literal = _address(self.host)
        if literal is not None and not private and not is_public(literal):
            raise ConfigError(f"serve.webhook: {self.host} is not a public address; {_FIX}")

    async def post(self, content: bytes) -> None:
        """Post JSON once. Return when it was accepted (2xx); raises Undelivered otherwise."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._post(content, await self._addresses())
        except TimeoutError:
            raise Undelivered(f"{self.host} did not answer within {TIMEOUT:g} s") from None

    async def _addresses(self) -> list[str]:
        """Resolve the host and check its addresses. Raises Undelivered if one of them is not allowed."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self.host, self._url.port or 0, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except (OSError, UnicodeError) as error:
            raise Undelivered(f"the name {self.host} cannot be resolved: {error}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for text in addresses:
            address = _address(text)
            if not self._private and (address is None or not is_public(address)):
                raise Undelivered(f"{self.host} is at {text}, which is not a public address; {_FIX}")
        return addresses

    async def _post(self, content: bytes, addresses: list[str]) -> None:
        if self._trusted is None and self._url.scheme == "https":
            self._trusted = await asyncio.to_thread(httpx.create_ssl_context)  # reads the CA certificates from disk
        headers = {"host": self._url.netloc.decode(), "content-type": "application/json", "user-agent": "everlearn"}
        if self._secret:
            headers[SIGNATURE] = sign(content, self._secret)
        timeout = httpx.Timeout(TIMEOUT, connect=TIMEOUT / 2)
        failure = Undelivered(f"the name {self.host} has no address")
        async with httpx.AsyncClient(verify=self._trusted or False, trust_env=False, timeout=timeout) as client:
            for address in addresses:
                url = self._url.copy_with(host=address)
                # The certificate is checked against the host name, although the connection goes to the address.
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
                    seconds = response.headers.get("retry-after", "")
                    wait = float(seconds) if seconds.isascii() and seconds.isdigit() else 0.0
                    raise Undelivered(f"{self.host} answered {response.status_code}", response.status_code, wait)
                return
        raise failure


def sign(content: bytes, secret: bytes) -> str:
    """Return the signature of a body: HMAC-SHA256 with a shared secret.

    >>> sign(b"{}", b"key")[:20]
    'sha256=a777724d943eb'
    """
    return "sha256=" + hmac.new(secret, content, hashlib.sha256).hexdigest()


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return True if an address is on the internet: not private, loopback, link-local, reserved or a cloud's own.

    >>> [is_public(ipaddress.ip_address(text)) for text in ("93.184.216.34", "10.0.0.1", "::ffff:127.0.0.1")]
    [True, False, False]
    """
    inner = _inner(address) if isinstance(address, IPv6Address) else None
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved and address != _CLOUD


def _inner(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address embedded in an IPv6 address; None if there is none."""
    if address in _TRANSLATED or address in _COMPATIBLE:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
