"""The playground: one page at `/`, and the files beside it that it is made of.

Every file is read before the first request, and each has a route of its own: no path from a
request reaches the disk. The page's policy lets a browser load nothing from elsewhere, run no
script and take no style that is written in the page, and make no HTML of text: what a model
writes stays text, whatever it spells.
"""

from importlib.resources import files
from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # An assignment to innerHTML, or its like, is an error.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What a browser may do for the page: https://www.w3.org/TR/CSP3 and W3C's Trusted Types."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # A newer release must not meet a script of the one before.
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """A route for the page, and one for each of its files."""
    folder = files("lm.serve").joinpath("page")
    found = {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if PurePath(file.name).suffix in _TYPES
    }
    return [
        _route("/" if name == "index.html" else f"/{name}", content, PurePath(name).suffix)
        for name, content in sorted(found.items())
    ]


def _route(path: str, content: bytes, suffix: str) -> Route:
    async def answer(_: Request) -> Response:
        return Response(content, headers={**_HEADERS, "Content-Type": _TYPES[suffix]})

    return Route(path, answer, methods=["GET"], include_in_schema=False)
