"""The container's health check: the exit status is 0 if the server is alive, else 1.

The check needs no curl and no key: a server that restricts its health endpoints is alive if it
responds with 401 or 404.
"""

import http.client
import os
import sys


def is_alive(port: int) -> bool:
    """Return whether `/livez` gets a response below 500."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    port = os.environ.get("BENTOML_PORT") or os.environ.get("AIP_HTTP_PORT") or "3000"
    sys.exit(not is_alive(int(port)))
