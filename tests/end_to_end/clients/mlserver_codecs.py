"""MLServer's codecs over plain HTTP, and its command `mlserver infer`."""

import tempfile
from pathlib import Path

import httpx
import numpy as np
from mlserver.cli.main import root as main_command
from mlserver.codecs import NumpyCodec, NumpyRequestCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse
from questions import Question, given, of_rows


def request(question: Question, rows: slice = slice(None)) -> InferenceRequest:
    """Return the rows of the question, encoded as a request of one input."""
    encoded = NumpyRequestCodec.encode_request(question.rows[rows])
    encoded.inputs[0].name = question.input  # the codec names it input-0
    return encoded


def check_codecs(client: httpx.Client, question: Question) -> None:
    """Encode with each codec, send the request, and decode the response."""
    by_input = InferenceRequest(
        id="seven", inputs=[NumpyCodec.encode_input(question.input, question.rows)]
    )
    for sent in (request(question), by_input):
        reply = client.post(f"/v2/models/{question.model}/infer", content=sent.model_dump_json())
        assert reply.status_code == 200, reply.text
        response = InferenceResponse.model_validate_json(reply.content)
        assert response.model_name == question.model, response.model_name
        assert response.id == sent.id, response.id
        question.check(NumpyCodec.decode_output(response.outputs[0]), "NumpyCodec")
        question.check(NumpyRequestCodec.decode_response(response), "NumpyRequestCodec")
    metadata = client.get(f"/v2/models/{question.model}")
    described = MetadataModelResponse.model_validate_json(metadata.content)
    assert described.inputs is not None
    assert [tensor.name for tensor in described.inputs] == [question.input], described


def check_command(address: str, question: Question, folder: Path, *options: str) -> None:
    """Run `mlserver infer`, which sends the rows in small batches."""
    requests_file, responses_file = folder / "asked.jsonl", folder / "answered.jsonl"
    rows = range(len(question.rows))
    lines = [request(question, slice(row, row + 1)).model_dump_json() for row in rows]
    requests_file.write_text("\n".join(lines) + "\n")
    arguments = [
        "-u",
        address,
        "-r",
        "1",
        "-m",
        question.model,
        "-i",
        requests_file,
        "-o",
        responses_file,
    ]
    main_command.main(["infer", *map(str, arguments), *options], standalone_mode=False)
    responses = [
        InferenceResponse.model_validate_json(line)
        for line in responses_file.read_text().splitlines()
    ]
    response_of_row = {response.parameters.batch_index: response for response in responses}
    assert sorted(response_of_row) == list(rows), f"{len(response_of_row)} of {len(rows)} answers"
    decoded = [NumpyCodec.decode_output(response_of_row[row].outputs[0]) for row in rows]
    question.check(np.concatenate(decoded), f"mlserver infer {' '.join(options)}")


def main() -> None:
    """Send all questions."""
    address, questions = given()
    with httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        for question in questions:
            check_codecs(client, question)
    with tempfile.TemporaryDirectory() as folder:
        for question in of_rows(questions, 7):
            check_command(address, question, Path(folder), "-s", "3")
            check_command(address, question, Path(folder), "-s", "3", "--binary-data")


if __name__ == "__main__":
    main()
