"""Loads the model packages and answers batched predictions over HTTP."""
