"""`DynamoDBStore`: records as items of a DynamoDB table, one conditional request for each verb."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final, Self, TypedDict, Unpack

from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import GONE, TAG_SIZE, TAKEN, Conflict, CreateResult, Saved, SaveResult, Stored
from asgi_session.stores._shared.aws import AwsService, code, refusal
from asgi_session.stores._shared.aws_setup import set_up
from asgi_session.stores._shared.aws_urls import read_url
from asgi_session.stores._shared.verbs import Clients, Trouble

_log = logging.getLogger("asgi_session")

_KEY, _DATA, _TAG, _EXPIRES, _TTL = "k", "d", "v", "x", "t"
"""The attributes' names, short because each item is charged for them."""

_TTL_MARGIN: Final = 60
"""Seconds: a clock of ours that is behind DynamoDB's by less loses no living record."""

_TABLE: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_FAILED: Final = "ConditionalCheckFailedException"
_NO_TABLE: Final = "ResourceNotFoundException"
_PROBE: Final = "-" * 22
_OPENING: Final = 10.0
_MAKING: Final = 130.0
"""Seconds that `open` and `create_table` may take."""

_RIGHTS: Final = "dynamodb:GetItem, PutItem, UpdateItem and DeleteItem on the table"


class DynamoDBOptions(TypedDict, total=False):
    """The options of `DynamoDBStore.from_url`: those of `DynamoDBStore`."""

    region: str | None
    endpoint_url: str | None
    session: Any
    connections: int
    timeout: timedelta | float
    connect_timeout: timedelta | float
    clock: Clock


class DynamoDBStore:
    """Sessions in a table of Amazon DynamoDB.

    The table has one key, ``k``, a string; `create_table` makes it. Reads are strongly consistent. The
    condition of every write holds the expiry: DynamoDB removes what has expired hours or days later.

    Whether a record's time has passed is judged by the clock of this process, which each request carries.
    Keep the clocks of your servers within a second or so of each other.

    Args:
        table: its name, or its ARN.
        region: for example ``eu-central-1``; None: what the SDK finds (AWS_REGION, a profile).
        endpoint_url: another address than AWS's: a VPC endpoint's, DynamoDB Local's.
        session: an `aiobotocore.session.AioSession`, for credentials other than those the SDK finds.
        connections: how many an event loop opens at most; 50. Verbs above that wait.
        timeout: `timedelta` or seconds without a byte of the reply, for one try; 2.
        connect_timeout: `timedelta` or seconds; 2.
        clock: tells the time in milliseconds; the system's.

    Raises:
        ConfigurationError: aiobotocore is not installed, or an argument cannot work.
    """

    def __init__(
        self,
        table: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        session: Any = None,
        connections: int = 50,
        timeout: timedelta | float = 2.0,
        connect_timeout: timedelta | float = 2.0,
        clock: Clock = system_clock,
    ) -> None:
        if not isinstance(table, str) or not (_TABLE.fullmatch(table) or table.startswith("arn:")):
            raise ConfigurationError(
                f"table={table!r}: give the table's name (3 to 255 of A-Z a-z 0-9 _ . -), or its ARN"
            )
        if not callable(clock):
            raise ConfigurationError(f"clock={clock!r}: give a function that returns milliseconds")
        self._table = table
        self._now = clock
        self._service = AwsService(
            "dynamodb",
            store="DynamoDBStore",
            extra="dynamodb",
            region=region,
            endpoint_url=endpoint_url,
            session=session,
            connections=connections,
            connect_timeout=connect_timeout,
            timeout=timeout,
            config={},
        )
        self._clients: Clients[Any] = Clients(
            self._service.connect, self._service.disconnect, self._explain, at_once=connections
        )

    @classmethod
    def from_url(cls, store_url: str | Wrapped, **options: Unpack[DynamoDBOptions]) -> Self:
        """Make a store from ``dynamodb://TABLE?region=REGION&endpoint_url=URL``; the query may be absent.

        `options` are those of the class. Credentials are the SDK's business: a role, AWS_ACCESS_KEY_ID.

        Raises:
            ConfigurationError: the URL or an option is wrong.
        """
        given = hidden((store_url, options))  # either may hold a secret that is in the wrong place
        del store_url, options
        table, _, of_class = with_revealed(
            read_url,
            given,
            DynamoDBOptions,
            store="DynamoDBStore",
            example="dynamodb://sessions?region=eu-central-1",
            path_of="table",
        )
        return cls(table, **of_class)

    def __repr__(self) -> str:
        return f"<DynamoDBStore {getattr(self, '_table', '?')}>"

    async def open(self) -> None:
        """Check that the table is there, has the right key and lets us in.

        Warns in the log when the table's TTL is not switched on: nothing would ever be removed.

        Raises:
            ConfigurationError: what never heals by itself: no such table, another key, no rights, no
                credentials.
            StoreUnavailable: DynamoDB is away.
        """
        await self._set_up("open", _OPENING, self._check)

    async def create_table(self) -> None:
        """Make the table, paid per request, with its TTL; wait until it can be used.

        A table that exists gets the TTL, if it lacks it.

        Raises:
            ConfigurationError: no rights (dynamodb:CreateTable, DescribeTable, UpdateTimeToLive,
                DescribeTimeToLive) or no credentials.
            StoreUnavailable: DynamoDB is away.
        """
        await self._set_up("create_table", _MAKING, self._create)

    async def close(self) -> None:
        """Wait for the verbs on their way, no longer than 5 seconds; then close the connections."""
        await self._clients.close()

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """Read the record."""
        async with self._clients.verb("load", deadline) as verb:
            client = await verb.client()

            async def ask() -> Any:
                return _genuine(
                    await client.get_item(TableName=self._table, Key=_key(key), ConsistentRead=True)
                )

            found = await self._service.patiently(ask, deadline, repeatable=True)
            return _living(found.get("Item"), self._now())

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        """Write a record where there is none, or one whose time has passed."""

        def ask(client: Any, now: int) -> Any:
            return client.put_item(
                TableName=self._table,
                Item=_item(key, data, expires_at),
                ConditionExpression="attribute_not_exists(k) OR x <= :n",
                ExpressionAttributeValues={":n": {"N": str(now)}},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )

        done, current = await self._write("create", ask, deadline)
        return Saved(data[:TAG_SIZE]) if done is not None or _is(data, current) else TAKEN

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        """Replace that version of the record."""

        def ask(client: Any, now: int) -> Any:
            return client.put_item(
                TableName=self._table,
                Item=_item(key, data, expires_at),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **_if(expect, now),
            )

        done, current = await self._write("save", ask, deadline)
        if done is not None or _is(data, current):
            return Saved(data[:TAG_SIZE])
        return GONE if current is None or current.tag == expect.tag else Conflict(current)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        """Change that version's expiry: one write, charged for the whole item."""

        def ask(client: Any, now: int) -> Any:
            condition = _if(expect, now)
            condition["ExpressionAttributeValues"] |= {
                ":x": {"N": str(expires_at)},
                ":t": {"N": str(_ttl(expires_at))},
            }
            return client.update_item(
                TableName=self._table, Key=_key(key), UpdateExpression="SET x = :x, t = :t", **condition
            )

        done, _ = await self._write("touch", ask, deadline)
        return done is not None

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        """Remove the record, with `expect` only that version."""
        at = 0

        def ask(client: Any, now: int) -> Any:
            nonlocal at
            at = now
            condition = {} if expect is None else _if(expect, now)
            return client.delete_item(
                TableName=self._table, Key=_key(key), ReturnValues="ALL_OLD", **condition
            )

        done, _ = await self._write("delete", ask, deadline)
        return done is not None and _living(done.get("Attributes"), at) is not None

    async def _write(
        self, name: str, ask: Callable[[Any, int], Awaitable[Any]], deadline: float
    ) -> tuple[Mapping[str, Any] | None, Stored | None]:
        """Carry out a conditional write; its reply, or None and what was there instead."""
        async with self._clients.verb(name, deadline) as verb:
            client = await verb.client()
            now = 0

            async def once() -> Any:
                nonlocal now
                now = self._now()  # of each try: a record may end while the service wants us to wait
                return _genuine(await ask(client, now))

            verb.sending()
            try:
                return await self._service.patiently(once, deadline, repeatable=False), None
            except Exception as error:
                if code(error) != _FAILED:
                    raise
                response: Any = getattr(error, "response", {})
                return None, _living(response.get("Item"), now)

    def _explain(self, error: Exception) -> Trouble | None:
        trouble = self._service.explain(error)
        if trouble is None:
            return None
        if code(error) == "ValidationException" and "size" in trouble.why:
            return Trouble(f"{trouble.why} (an item holds 400 KB at most: lower max_size)", False, full=True)
        return trouble

    async def _set_up(self, name: str, seconds: float, work: Callable[[Any], Awaitable[None]]) -> None:
        await set_up(self._clients, name, seconds, work, self._explain, self._refusal)

    def _refusal(self, found: str, why: str) -> ConfigurationError | None:
        """Return the error that says what to do, if what was answered never heals by itself."""
        if found == _NO_TABLE:
            return ConfigurationError(
                f"DynamoDB has no table {self._table!r} here: make it with `await store.create_table()`, or "
                f"correct the name or the region ({why})"
            )
        if found == "ValidationException":
            return ConfigurationError(
                f"the table {self._table!r} does not fit: it needs the one key 'k', a string ({why})"
            )
        return refusal("DynamoDB", found, rights=_RIGHTS, why=why)

    async def _check(self, client: Any) -> None:
        await client.get_item(TableName=self._table, Key=_key(_PROBE), ConsistentRead=True)
        try:
            found = await client.describe_time_to_live(TableName=self._table)
        except Exception as error:
            if self._service.explain(error) is None:
                raise
            return  # a right that only this check needs
        ttl = found.get("TimeToLiveDescription", {})
        if ttl.get("AttributeName") != _TTL or not str(ttl.get("TimeToLiveStatus")).startswith("ENABL"):
            _log.warning(
                "the DynamoDB table %s does not remove what has expired: switch on its TTL, with the "
                "attribute %r",
                self._table,
                _TTL,
            )

    async def _create(self, client: Any) -> None:
        try:
            await client.create_table(
                TableName=self._table,
                KeySchema=[{"AttributeName": _KEY, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": _KEY, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except Exception as error:
            if code(error) != "ResourceInUseException":
                raise
        await client.get_waiter("table_exists").wait(
            TableName=self._table, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )
        found = (await client.describe_time_to_live(TableName=self._table)).get("TimeToLiveDescription", {})
        if not str(found.get("TimeToLiveStatus")).startswith("ENABL"):
            await client.update_time_to_live(
                TableName=self._table, TimeToLiveSpecification={"Enabled": True, "AttributeName": _TTL}
            )


def _genuine(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a reply of DynamoDB's. The SDK takes a proxy's web page with status 200 for an empty one."""
    kind = reply["ResponseMetadata"]["HTTPHeaders"].get("content-type", "")
    if "json" not in kind:
        raise StoreUnavailable(f"something else than DynamoDB has answered ({kind[:50]!r})", executed=None)
    return reply


def _key(key: str) -> dict[str, Any]:
    return {_KEY: {"S": key}}


def _item(key: str, data: bytes, expires_at: int) -> dict[str, Any]:
    return {
        _KEY: {"S": key},
        _DATA: {"B": data},
        _TAG: {"B": data[:TAG_SIZE]},
        _EXPIRES: {"N": str(expires_at)},
        _TTL: {"N": str(_ttl(expires_at))},
    }


def _ttl(expires_at: int) -> int:
    return expires_at // 1000 + _TTL_MARGIN


def _if(expect: Stored, now: int) -> dict[str, Any]:
    """Return the condition that this version is there and lives."""
    return {
        "ConditionExpression": "v = :e AND x > :n",
        "ExpressionAttributeValues": {":e": {"B": expect.tag}, ":n": {"N": str(now)}},
    }


def _is(data: bytes, current: Stored | None) -> bool:
    """Tell whether what is there is what was to be written.

    We make one request and the SDK repeats none, but something on the way might: a proxy, a tunnel.
    """
    return current is not None and current.data == data


def _living(item: Mapping[str, Any] | None, now: int) -> Stored | None:
    """Return the record that an item holds, if its time has not passed."""
    if not item:
        return None
    expires_at = int(item[_EXPIRES]["N"])
    if expires_at <= now:
        return None
    data = item[_DATA]["B"]
    if isinstance(data, str):  # in an error botocore leaves it as it came
        data = base64.b64decode(data)
    return Stored(bytes(data), bytes(data[:TAG_SIZE]), expires_at)
