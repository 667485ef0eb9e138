"""Answers of a page: JSON, and pictures that a browser may keep."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["encode_json", "error_answer", "has_tag", "json_answer", "kept_answer"]

_YEAR = 365 * 24 * 3600


def encode_json(content: object) -> str:
    """Return JSON in ASCII alone, because names of files need not be Unicode."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer of JSON."""
    return Response(encode_json(content), status, headers, media_type="application/json")


def error_answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a refusal: ``{"error": "one line"}``."""
    return json_answer({"error": message}, status, headers)


def kept_answer(request: Request, data: bytes, media_type: str, tag: str) -> Response:
    """Return what a browser may keep: for a year where the address has a version (``?v=``), else to ask again with.

    Args:
        request: what is answered.
        data: the content.
        media_type: of the content.
        tag: its ETag without quotes, see `has_tag`.
    """
    keep = f"private, max-age={_YEAR}, immutable" if "v" in request.query_params else "private, no-cache"
    headers = {"ETag": f'"{tag}"', "Cache-Control": keep}
    if has_tag(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=media_type)


def has_tag(request: Request, tag: str) -> bool:
    """Return whether a browser has the content of an ETag already."""
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    return f'"{tag}"' in known or "*" in known
