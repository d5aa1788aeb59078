"""Predictions in rows: each row of a request in the model's own terms, each answer in a row."""
