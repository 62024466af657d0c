"""A stand-in for Amazon SimpleDB, in a thread: what its documentation says of six actions.

Reads that are not consistent answer what was there before the last write, since they may. Signatures are
checked. Limits are those of the documentation; what a domain holds is not counted.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
import threading
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, quote
from xml.sax.saxutils import escape

from tests.servers.aws import ACCESS_KEY, SECRET_KEY
from tests.servers.http_proxy import read_request
from tests.servers.server import HOST, Server

Item = dict[str, list[str]]

_LONGEST: Final = 1024
_MOST: Final = 256
_SELECT: Final = re.compile(r"select (\w+) from `([^`]+)` where (\w+) <= '([^']*)' limit (\d+)")
_ERRORS: Final = {
    "AuthFailure": 403,
    "SignatureDoesNotMatch": 403,
    "NoSuchDomain": 400,
    "InvalidParameterValue": 400,
    "MissingParameter": 400,
    "InvalidQueryExpression": 400,
    "InvalidAction": 400,
    "AttributeDoesNotExist": 404,
    "ConditionalCheckFailed": 409,
    "MultiValuedAttribute": 409,
    "NumberSubmittedAttributesExceeded": 409,
    "NumberItemAttributesExceeded": 409,
}


class Refused(Exception):
    """An error reply."""


class SimpleDB(Server):
    """Use its `url` as endpoint; ACCESS_KEY and SECRET_KEY are right.

    Attributes:
        actions: of the requests so far, in order.
    """

    def __init__(self) -> None:
        super().__init__(HOST, 0)
        self.actions: list[str] = []
        self._now: dict[str, dict[str, Item]] = {}
        self._before: dict[str, dict[str, Item]] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def flush(self) -> None:
        """Forget everything."""
        self._now, self._before = {}, {}
        self.actions.clear()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(5)

    def item(self, domain: str, name: str) -> Item:
        """Return an item's attributes, as they are."""
        return self._now[domain].get(name, {})

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                while True:
                    request = await read_request(reader)
                    fields = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
                    status, text = self._answer(request.headers["host"], fields)
                    head = f"HTTP/1.1 {status} X\r\nContent-Type: text/xml\r\nContent-Length: {len(text)}"
                    writer.write(f"{head}\r\n\r\n".encode() + text)
                    await writer.drain()
            except (EOFError, OSError, asyncio.CancelledError):
                writer.transport.abort()
            finally:
                tasks.discard(task)

        server = await asyncio.start_server(serve, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _answer(self, host: str, fields: Mapping[str, str]) -> tuple[int, bytes]:
        action = fields.get("Action", "")
        self.actions.append(action)
        try:
            _check_signature(host, fields)
            inner = self._act(action, fields)
        except Refused as refused:
            code, text = refused.args
            reply = (
                f"<Response><Errors><Error><Code>{code}</Code><Message>{escape(text)}</Message>"
                "<BoxUsage>0</BoxUsage></Error></Errors><RequestID>1</RequestID></Response>"
            )
            return _ERRORS[code], f'<?xml version="1.0"?>\n{reply}'.encode()
        reply = (
            f'<{action}Response xmlns="http://sdb.amazonaws.com/doc/2009-04-15/">{inner}<ResponseMetadata>'
            f"<RequestId>1</RequestId><BoxUsage>0.0000219907</BoxUsage></ResponseMetadata></{action}Response>"
        )
        return 200, f'<?xml version="1.0"?>\n{reply}'.encode()

    def _act(self, action: str, fields: Mapping[str, str]) -> str:
        if action == "Select":
            return self._select(fields)
        domain = fields.get("DomainName", "")
        if action == "CreateDomain":
            self._now.setdefault(domain, {})
            self._before.setdefault(domain, {})
            return ""
        if domain not in self._now:
            raise Refused("NoSuchDomain", "The specified domain does not exist.")
        name = fields.get("ItemName", "")
        if not 0 < len(name.encode()) <= _LONGEST:
            raise Refused("InvalidParameterValue", "Value for parameter ItemName is invalid.")
        if action == "GetAttributes":
            seen = self._seen(fields)[domain].get(name, {})
            return f"<GetAttributesResult>{_shown(seen)}</GetAttributesResult>"
        item = self._now[domain].get(name, {})
        if action == "PutAttributes":
            changed = _put(item, _rows(fields), _expected(item, fields))
        elif action == "DeleteAttributes":
            changed = _delete(item, _rows(fields), _expected(item, fields))
        else:
            raise Refused("InvalidAction", f"The action {action} is not valid for this web service.")
        self._before[domain][name] = item
        self._now[domain][name] = changed
        return ""

    def _seen(self, fields: Mapping[str, str]) -> dict[str, dict[str, Item]]:
        return self._now if fields.get("ConsistentRead") == "true" else self._before

    def _select(self, fields: Mapping[str, str]) -> str:
        query = _SELECT.fullmatch(fields["SelectExpression"])
        if query is None:
            raise Refused("InvalidQueryExpression", "The specified query expression syntax is not valid.")
        wanted, domain, name, most, limit = query.groups()
        if domain not in self._now:
            raise Refused("NoSuchDomain", "The specified domain does not exist.")
        found = [
            f"<Item><Name>{escape(each)}</Name>{_shown({wanted: item.get(wanted, [])})}</Item>"
            for each, item in self._seen(fields)[domain].items()
            if any(value <= most for value in item.get(name, ()))
        ]
        return f"<SelectResult>{''.join(found[: int(limit)])}</SelectResult>"


def _shown(item: Item) -> str:
    return "".join(
        f"<Attribute><Name>{escape(name)}</Name><Value>{escape(value)}</Value></Attribute>"
        for name, values in item.items()
        for value in values
    )


def _rows(fields: Mapping[str, str]) -> list[dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for field, value in fields.items():
        if field.startswith("Attribute."):
            _, number, name = field.split(".")
            rows.setdefault(number, {})[name] = value
    if len(rows) > _MOST:
        raise Refused("NumberSubmittedAttributesExceeded", "Too many attributes in a single call.")
    for row in rows.values():
        for part in ("Name", "Value"):
            if len(row.get(part, "").encode()) > _LONGEST:
                raise Refused(
                    "InvalidParameterValue", f"Value for parameter {part} is too long: at most 1024."
                )
    return list(rows.values())


def _expected(item: Item, fields: Mapping[str, str]) -> None:
    name = fields.get("Expected.Name")
    if name is None:
        return
    values = item.get(name)
    if fields.get("Expected.Exists") == "false":
        if values:
            raise Refused("ConditionalCheckFailed", f"Attribute ({name}) value exists")
        return
    if not values:
        raise Refused("AttributeDoesNotExist", f"Attribute ({name}) does not exist")
    if len(values) > 1:
        raise Refused("MultiValuedAttribute", f"Attribute ({name}) is multi-valued.")
    if values[0] != fields["Expected.Value"]:
        raise Refused(
            "ConditionalCheckFailed", f"Attribute ({name}) value is ({values[0]}) but was not expected"
        )


def _put(item: Item, rows: list[dict[str, str]], _checked: None) -> Item:
    if not rows:
        raise Refused("MissingParameter", "The request must contain the parameter Attribute.Name.")
    changed = {name: list(values) for name, values in item.items()}
    for row in rows:
        old = [] if row.get("Replace") == "true" else changed.get(row["Name"], [])
        changed[row["Name"]] = old if row["Value"] in old else [*old, row["Value"]]
    if sum(map(len, changed.values())) > _MOST:
        raise Refused("NumberItemAttributesExceeded", "Too many attributes in this item.")
    return changed


def _delete(item: Item, rows: list[dict[str, str]], _checked: None) -> Item:
    gone = {(row["Name"], row.get("Value")) for row in rows}
    left = {
        name: [value for value in values if not {(name, value), (name, None)} & gone]
        for name, values in item.items()
    }
    return {name: values for name, values in left.items() if values and rows}


def _check_signature(host: str, fields: Mapping[str, str]) -> None:
    """Check a signature of version 2."""
    if fields.get("AWSAccessKeyId") != ACCESS_KEY:
        raise Refused("AuthFailure", "AWS was not able to validate the provided access keys.")
    signed = sorted((name, value) for name, value in fields.items() if name != "Signature")
    query = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in signed)
    digest = hmac.new(SECRET_KEY.encode(), f"POST\n{host}\n/\n{query}".encode(), "sha256").digest()
    if fields.get("Signature") != base64.b64encode(digest).decode():
        raise Refused("SignatureDoesNotMatch", "The request signature we calculated does not match.")


def start_simpledb() -> SimpleDB:
    """Start the stand-in."""
    return SimpleDB()
