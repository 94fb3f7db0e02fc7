"""The reviewers' page: the queue of appeals and one case of it, in a browser.

One file that loads nothing and holds nothing of anybody: its script asks the endpoint with the token that the reviewer
gives, and keeps that no longer than the browser's tab is open. No other script runs in it, whatever a text says.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib import resources

from cancellation.serving.http.asgi import Response
from cluster.pages.templates import load_page


def review_page() -> Response:
    """Give the page."""
    script = (resources.files("cancellation.serving.http") / "review_page.js").read_text(encoding="utf-8")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    page = load_page("cancellation/serving/http/review_page.html").render(script=script, digest=digest)
    headers = {
        "Content-Security-Policy": "frame-ancestors 'self'",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(page.encode(), content_type="text/html; charset=utf-8", headers=headers)
