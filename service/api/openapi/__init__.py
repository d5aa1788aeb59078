"""The OpenAPI description of the service, at `/docs.json`."""
