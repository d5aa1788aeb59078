"""The requests of all clients, and the comparison with the typed endpoints' responses."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


class Question(NamedTuple):
    """The rows of a request, and the response of the typed endpoint, rounded to seven digits."""

    model: str
    input: str
    datatype: str
    rows: NDArray[Any]
    output: str
    answer: NDArray[np.float64]

    def check(self, actual: Any, context: str) -> None:
        """Fail unless `found` is the expected output; `asked` describes the request."""
        array = np.asarray(actual)
        message = f"{self.model}, {len(self.rows)} rows, {context}"
        assert array.shape == self.answer.shape, f"{message}: the shape is {array.shape}"
        np.testing.assert_allclose(
            array, self.answer, rtol=1e-6, atol=1e-5, err_msg=f"{message}: not the typed answer"
        )

    def check_classes(self, actual: Any, k: int, context: str) -> None:
        """Fail unless `found`, strings "value:index[:label]", has the k most probable classes."""
        message = f"{self.model}, {len(self.rows)} rows, {context}"
        columns = self.answer.shape[1]
        strings = [
            [text.decode() if isinstance(text, bytes) else str(text) for text in row]
            for row in np.asarray(actual)
        ]
        parts = [[text.split(":") for text in row] for row in strings]
        values = np.array([[float(part[0]) for part in row] for row in parts])
        places = np.array([[int(part[1]) for part in row] for row in parts])
        assert values.shape == (len(self.rows), min(k, columns)), f"{message}: {values.shape}"
        assert all(len(set(row)) == len(row) for row in places.tolist()), (
            f"{message}: a class twice"
        )
        picked = np.take_along_axis(self.answer, places, axis=1)
        largest = -np.sort(-self.answer, axis=1)[:, : min(k, columns)]
        for scores in (picked, largest):
            np.testing.assert_allclose(values, scores, rtol=1e-5, atol=1e-5, err_msg=message)


def given() -> tuple[str, list[Question]]:
    """Return the address of the server as `host:port`, and the questions: the program's arguments.

    The questions are a .npz with two arrays each: `model/rows/takes/name-of-the-input` and
    `model/rows/gives/name-of-the-output`.
    """
    address, file = sys.argv[1:3]
    with np.load(file) as arrays:
        keys = [key.split("/") for key in arrays.files]
        outputs = {(model, rows): name for model, rows, role, name in keys if role == "gives"}
        questions = []
        for model, rows, role, name in keys:
            if role == "takes":
                output = outputs[model, rows]
                rows_of_input = arrays[f"{model}/{rows}/takes/{name}"]
                expected = arrays[f"{model}/{rows}/gives/{output}"]
                datatype = DATATYPES[rows_of_input.dtype.name]
                questions.append(Question(model, name, datatype, rows_of_input, output, expected))
    assert questions, f"{file} holds no question"
    return address, questions


def of_rows(questions: Sequence[Question], rows: int) -> Iterator[Question]:
    """Return the questions with this number of rows, one per model."""
    return (question for question in questions if len(question.rows) == rows)
