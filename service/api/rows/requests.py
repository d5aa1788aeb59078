"""Rows or columns of a request → the request: texts, or the inputs of the model."""

from typing import Any

from models.package.card import ModelCard
from service.api.rows.dialects import Media, RowsRequest
from service.api.rows.instances import inputs_of_columns, inputs_of_rows
from service.api.rows.tables import inputs_of_table, inputs_of_table_rows
from service.api.rows.texts import columns_of_texts, takes_texts, texts_of


def request_of_rows(
    card: ModelCard, rows: Any, media: Media, *, booleans: bool = True, form: str = ""
) -> RowsRequest:
    """Return the request with these rows.

    Raises:
        ServiceError: the rows do not fit the model.
    """
    if card.table is not None:
        return RowsRequest(inputs_of_table_rows(card, card.table, rows), form)
    if takes_texts(card, rows):
        return RowsRequest({}, form, texts=texts_of(rows))
    inputs = inputs_of_rows(card, rows, booleans=booleans, max_pixels=media.max_pixels)
    return RowsRequest(inputs, form)


def request_of_columns(
    card: ModelCard, columns: Any, media: Media, *, booleans: bool = True, form: str = ""
) -> RowsRequest:
    """Return the request with these columns: lists of values by the names of the inputs or columns.

    Raises:
        ServiceError: the columns do not fit the model.
    """
    if card.table is not None:
        return RowsRequest(inputs_of_table(card, card.table, columns), form)
    rows = columns_of_texts(columns) if card.text is not None else None
    if rows is not None:
        return request_of_rows(card, rows, media, booleans=booleans, form=form)
    inputs = inputs_of_columns(card, columns, booleans=booleans, max_pixels=media.max_pixels)
    return RowsRequest(inputs, form)
