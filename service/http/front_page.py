"""The page at `/`: what is served here, and where to ask. It calls no other host."""

import base64
import hashlib
from html import escape

from service.catalog import Catalog
from service.settings import VERSION

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }
code { font-size: .9em; }
"""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src "
    f"'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)


def front_page(catalog: Catalog) -> str:
    """The page, in HTML."""
    rows = "".join(
        f'<tr><td><a href="models/{escape(card.name)}">{escape(card.name)}</a></td>'
        f"<td>{escape(card.version)}</td><td>{escape(card.summary)}</td></tr>"
        for card in (predictor.card for predictor in catalog)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fitserve</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>fitserve</h1>
<p>Version {VERSION}. Any program that speaks the Open Inference Protocol finds it at
<a href="v2"><code>/v2</code></a>; every endpoint is described in
<a href="docs.json"><code>/docs.json</code></a>.</p>
<table>
<thead><tr><th scope="col">network</th><th scope="col">version</th><th scope="col">what it is</th>
</tr></thead>
<tbody>{rows}</tbody>
</table>
<p><a href="models">/models</a> · <a href="v2/models/stats">/v2/models/stats</a> ·
<a href="metrics">/metrics</a> · <a href="readyz">/readyz</a></p>
</body>
</html>
"""
