"""The old name of `python -m service.http.auth`, until the next release."""

from service.http.auth import main

if __name__ == "__main__":
    main()
