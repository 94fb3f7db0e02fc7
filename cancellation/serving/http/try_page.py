"""Swagger UI, out of a Python package: the page on which a person can try a call, with nothing from elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from cancellation.serving.http.asgi import Response

_PACKAGE = "fastapi_offline"
_STYLE, _SCRIPT = "swagger-ui.css", "swagger-ui-bundle.js"
_PAGE = f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>Cancellation verdicts: try a call</title><link rel=icon href="data:,">
<link rel=stylesheet href="/docs/{_STYLE}"><div id=calls></div><script src="/docs/{_SCRIPT}"></script><script>
SwaggerUIBundle({{url: "/openapi.json", dom_id: "#calls", tryItOutEnabled: true, validatorUrl: null}})
</script></html>"""


def try_pages() -> dict[str, Response]:
    """Give the page and what it loads, by path."""
    return {
        "/docs/try": Response(_PAGE.encode(), content_type="text/html; charset=utf-8"),
        f"/docs/{_STYLE}": Response(_asset(_STYLE), content_type="text/css; charset=utf-8"),
        f"/docs/{_SCRIPT}": Response(_asset(_SCRIPT), content_type="text/javascript; charset=utf-8"),
    }


def _asset(name: str) -> bytes:
    # Found and not imported: the package's own code wants FastAPI, and only its files are wanted here.
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"{_PACKAGE}: expected the package with Swagger UI's files, found none; make install")
    return (Path(spec.submodule_search_locations[0]) / "static" / name).read_bytes()
