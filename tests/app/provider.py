"""An OpenID provider, as an ASGI app: codes with PKCE, signed id tokens, discovery."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

ISSUER = "https://provider.test"
CLIENT_ID, CLIENT_SECRET = "the-app", "the-secret"
_KEY = RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"})


def sign(claims: dict[str, Any], *, key: RSAKey = _KEY, kid: str = "1", typ: str = "JWT") -> str:
    """Return a token of the provider's, or one that somebody else has signed with a `key` of their own."""
    return jwt.encode({"alg": "RS256", "kid": kid, "typ": typ}, claims, key)


def make_provider(issuer: str = ISSUER) -> Starlette:
    """Return a provider that grants whatever `login_hint` asks for, and honours each code once."""
    codes: dict[str, dict[str, str]] = {}

    async def metadata(request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": issuer,
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "jwks_uri": f"{issuer}/jwks",
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
            }
        )

    async def jwks(request: Request) -> Response:
        return JSONResponse({"keys": [_KEY.as_dict(private=False)]})

    async def authorize(request: Request) -> Response:
        query = dict(request.query_params)
        assert query["client_id"] == CLIENT_ID
        assert query["response_type"] == "code"
        code = secrets.token_urlsafe()
        codes[code] = query
        back = urlencode({"code": code, "state": query["state"]})
        return RedirectResponse(f"{query['redirect_uri']}?{back}", 302)

    async def token(request: Request) -> Response:
        form = await request.form()
        asked = codes.pop(str(form["code"]), None)
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(str(form["code_verifier"]).encode()).digest())
        if (
            asked is None
            or request.headers["authorization"] != f"Basic {basic}"
            or asked["code_challenge"] != challenge.decode().rstrip("=")
            or asked["redirect_uri"] != form["redirect_uri"]
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 60,
            "sub": asked["login_hint"], "nonce": asked["nonce"], "sid": secrets.token_urlsafe(),
        }  # fmt: skip
        id_token = sign(claims)
        return JSONResponse(
            {
                "access_token": secrets.token_urlsafe(),
                "token_type": "Bearer",
                "expires_in": 60,
                "id_token": id_token,
            }
        )

    return Starlette(
        routes=[
            Route("/.well-known/openid-configuration", metadata),
            Route("/jwks", jwks),
            Route("/authorize", authorize),
            Route("/token", token, methods=["POST"]),
        ]
    )
