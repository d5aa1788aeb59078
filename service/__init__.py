"""The service: it loads model packages and answers prediction requests over HTTP."""
