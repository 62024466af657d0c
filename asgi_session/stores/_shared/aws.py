"""Clients of AWS's services: made by aiobotocore, without its repeats; what their errors mean.

A repeat by the SDK hides a lost reply: a create that was carried out then answers that the key is taken.
So the SDK makes one try, and what is repeated is repeated by those who know what they have sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from asgi_session._backoff import pause
from asgi_session._options import duration
from asgi_session.errors import ConfigurationError
from asgi_session.stores._shared.extras import need
from asgi_session.stores._shared.verbs import Trouble, kind_and_text

T = TypeVar("T")

_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d{1,2}")

_UNCONFIGURED: Final = frozenset({"NoRegionError", "NoCredentialsError", "PartialCredentialsError"})
"""Errors before a request, which another try does not heal."""

_NO_CREDENTIALS: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "AuthMissingFailure"})

_BAD_CREDENTIALS: Final = frozenset(
    {
        *("UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignatureException"),
        *("MissingAuthenticationTokenException", "ExpiredTokenException", "ExpiredToken", "InvalidToken"),
        *("InvalidClientTokenId", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure"),
        *("RequestTimeTooSkewed", "RequestExpired"),
    }
)

_NO_RIGHT: Final = frozenset(
    {
        *("AccessDeniedException", "AccessDenied", "AllAccessDisabled", "AuthorizationFailure"),
        *("AccessFailure", "OptInRequired"),
    }
)

_NEVER_SENT: Final = _UNCONFIGURED | {
    *("ConnectTimeoutError", "CredentialRetrievalError", "TokenRetrievalError", "ClientConnectorError"),
}
"""Errors, of botocore and of the aiohttp below it, that come before a request has left. aiobotocore's
EndpointConnectionError is none of them: it stands for a connection that was reset under way, too."""

_REFUSED: Final = frozenset(
    {
        *("ThrottlingException", "Throttling", "ProvisionedThroughputExceededException"),
        *("RequestLimitExceeded", "SlowDown", "TooManyRequestsException", "ReplicatedWriteConflictException"),
        *("ConditionalRequestConflict", "OperationAborted"),
    }
)
"""Codes with which a service says that it has not carried out a request, also with a status above 499."""


class AwsService:
    """Makes clients for one of AWS's services.

    Args:
        service: botocore's name of it: ``dynamodb``, ``s3``, ``sdb``.
        store: the class that uses it, for errors.
        extra: the extra that installs aiobotocore.
        region: of the service; None: what the SDK finds (AWS_REGION, a profile).
        endpoint_url: another address than AWS's, such as a local stand-in's.
        session: an `aiobotocore.session.AioSession` with credentials of its own; None: the SDK's chain.
        connections: how many at most, for each event loop.
        connect_timeout: `timedelta` or seconds.
        timeout: `timedelta` or seconds without a byte of the reply.
        config: more for botocore's `Config`.
        prepare: called with each new client.

    Raises:
        ConfigurationError: aiobotocore is missing, or an argument cannot work.
    """

    def __init__(
        self,
        service: str,
        *,
        store: str,
        extra: str,
        region: str | None,
        endpoint_url: str | None,
        session: Any,
        connections: int,
        connect_timeout: timedelta | float,
        timeout: timedelta | float,
        config: Mapping[str, Any],
        prepare: Callable[[Any], None] = lambda client: None,
    ) -> None:
        library = need("aiobotocore.session", store=store, extra=extra)
        settings = need("aiobotocore.config", store=store, extra=extra)
        if not isinstance(connections, int) or isinstance(connections, bool) or connections < 1:
            raise ConfigurationError(f"connections={connections!r}: must be a whole number of at least 1")
        if region is not None and not (isinstance(region, str) and _REGION.fullmatch(region)):
            raise ConfigurationError(f"region={region!r}: give a region's name, as in eu-central-1")
        self.where = service if endpoint_url is None else _place(endpoint_url)
        if session is None:
            session = library.get_session()
        elif not isinstance(session, library.AioSession):
            raise ConfigurationError("session: give an aiobotocore.session.AioSession")
        if region is None and endpoint_url is not None and session.get_config_variable("region") is None:
            region = "us-east-1"  # any will do for a stand-in
        if region is None and session.get_config_variable("region") is None:
            raise ConfigurationError(
                f"{store} does not know the region: give region=, or ?region= in the URL, or set AWS_REGION"
            )
        self._prepare = prepare
        self._create = partial(
            session.create_client,
            service,
            region_name=region,
            endpoint_url=endpoint_url,
            config=settings.AioConfig(
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=connections,
                connect_timeout=duration("connect_timeout", connect_timeout),
                read_timeout=duration("timeout", timeout),
                parameter_validation=False,
                user_agent="asgi-session",  # else the SDK makes one for each request: a quarter of its time
                **config,
            ),
        )

    async def connect(self) -> Any:
        """Make a client for the running event loop."""
        client = await self._create().__aenter__()
        self._prepare(client)
        return client

    async def disconnect(self, client: Any) -> None:
        """Close a client."""
        await client.__aexit__(None, None, None)
        await asyncio.sleep(0)  # aiohttp's transports are told in the next turn

    def explain(self, error: Exception) -> Trouble | None:
        """Say what an error of a client means."""
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            found = code(error)
            found_status = status(error)
            done: bool | None = False if found_status < 500 or found in _REFUSED else None
            text = " ".join(str(response.get("Error", {}).get("Message", ""))[:200].split())
            return Trouble(f"{self.where} answered {found_status} {found}: {text}", done)
        if _from_the_sdk(error) or isinstance(error, (OSError, RuntimeError)):
            if isinstance(error, RuntimeError) and "closed" not in str(error):
                return None  # aiohttp says "Session is closed" so: anything else is a mistake
            return Trouble(f"{self.where}: {kind_and_text(error)}", False if _unsent(error) else None)
        return None

    async def patiently(self, ask: Callable[[], Awaitable[T]], deadline: float, *, repeatable: bool) -> T:
        """Ask, and ask again where that can do no harm, with growing pauses until the deadline.

        Args:
            ask: makes one request.
            deadline: an instant of `time.monotonic`.
            repeatable: whether twice is the same as once. What is not is asked again only when it was
                refused for want of capacity, or has certainly not left.
        """
        tries = 0
        while True:
            try:
                return await ask()
            except Exception as error:
                trouble = self.explain(error)
                if trouble is None or not (repeatable or code(error) in _REFUSED or _unsent(error)):
                    raise
                if type(error).__name__ in _UNCONFIGURED:
                    raise
                if repeatable and 400 <= status(error) < 500 and code(error) not in _REFUSED:
                    raise
                tries += 1
                if not await pause(tries, deadline):
                    raise


def code(error: Exception) -> str:
    """Return the code of a service's error reply; nothing for another error."""
    response: Any = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, Mapping) else ""


def refusal(service: str, found: str, *, rights: str, why: str) -> ConfigurationError | None:
    """Return the error that says what to do, if a service lets nobody in with these credentials, or none.

    Args:
        service: its name, for people.
        found: the code of its reply, or the name of the SDK's error.
        rights: which the store needs.
        why: what was answered.
    """
    if found in _NO_CREDENTIALS:
        what = (
            f"there are no credentials for {service}: give this process a role, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    elif found in _BAD_CREDENTIALS:
        what = f"{service} refuses the credentials that the SDK found: correct them, or this machine's clock"
    elif found in _NO_RIGHT:
        what = f"{service} refuses: give the role {rights}"
    else:
        return None
    return ConfigurationError(f"{what} ({why})")


def status(error: Exception) -> int:
    """Return the HTTP status of a service's error reply; 0 for another error."""
    response: Any = getattr(error, "response", None)
    if not isinstance(response, Mapping):
        return 0
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


_SDK: Final = ("botocore", "aiobotocore", "aiohttp")
_READING: Final = ("botocore.parsers", "aiobotocore.parsers", "aiobotocore.endpoint")


def _from_the_sdk(error: Exception) -> bool:
    """Tell whether an error is one of the SDK's, or one that it met in a reply that makes no sense."""
    if type(error).__module__.partition(".")[0] in _SDK:
        return True
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None or not isinstance(error, (ValueError, AttributeError, TypeError, LookupError)):
        return False
    return at.tb_frame.f_globals.get("__name__") in _READING


def _unsent(error: Exception) -> bool:
    causes = [error, getattr(error, "kwargs", {}).get("error")]
    return any(kind.__name__ in _NEVER_SENT for each in causes for kind in type(each).__mro__)


def _place(endpoint_url: str) -> str:
    try:
        parts = urlsplit(endpoint_url)
        port = parts.port
    except (ValueError, AttributeError, TypeError):
        parts, port = None, None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigurationError("endpoint_url: give it as in http://127.0.0.1:8000, without a user")
    return parts.hostname if port is None else f"{parts.hostname}:{port}"
