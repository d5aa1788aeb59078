"""The API: the V2 protocol, the typed endpoints, the pages."""
