"""Whether the server in this container lives: the end is 0 where it does, and 1 where not.

It needs no curl and no key: who may ask for health is a setting, and 401 or 404 is an answer too.
"""

import http.client
import os
import sys


def lives(port: int) -> bool:
    """Whether `/livez` is answered, and not with a fault."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not lives(int(os.environ.get("BENTOML_PORT", "3000"))))
