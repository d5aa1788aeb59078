"""KServe's `InferenceRESTClient` with version 2 of its protocol."""

import asyncio
import itertools

import httpx
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from questions import Question, given, of_rows


def request(
    question: Question, *, binary: bool, outputs: list[RequestedOutput] | None = None
) -> InferRequest:
    """Return the rows of the question as this client sends them."""
    tensor = InferInput(question.input, list(question.rows.shape), question.datatype)
    tensor.set_data_from_numpy(question.rows, binary_data=binary)
    return InferRequest(question.model, [tensor], request_outputs=outputs, request_id="seven")


async def ask(client: InferenceRESTClient, base: str, question: Question) -> None:
    """Send the rows as JSON and as binary, and request both kinds of output."""
    name = question.output
    expected = {
        "no outputs named": None,
        "the output named": [RequestedOutput(name)],
        "binary output": [RequestedOutput(name, {"binary_data": True})],
        "JSON output": [RequestedOutput(name, {"binary_data": False})],
    }
    for binary, (requested, outputs) in itertools.product((True, False), expected.items()):
        headers: dict[str, str] = {}
        response = await client.infer(
            base,
            request(question, binary=binary, outputs=outputs),
            model_name=question.model,
            response_headers=headers,
        )
        assert (response.model_name, response.id) == (question.model, "seven"), response
        (output,) = response.outputs
        assert (output.name, output.datatype) == (name, "FP32"), output
        context = f"{requested}, binary input {binary}"
        question.check(output.as_numpy(), context)
        is_binary = "inference-header-content-length" in headers
        assert is_binary is (requested == "binary output"), f"{context}: {headers}"


async def main() -> None:
    """Send all questions."""
    address, questions = given()
    base = f"http://{address}"
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=60)) as client:
        assert await client.is_server_live(base) is True
        assert await client.is_server_ready(base) is True
        for question in questions:
            assert await client.is_model_ready(base, question.model) is True
            await ask(client, base, question)
        assert await client.is_model_ready(base, "lenet") is False
        first = next(of_rows(questions, 1))
        try:
            await client.infer(base, request(first, binary=True), model_name="lenet")
        except httpx.HTTPStatusError as error:
            assert str(error).startswith("Request for unknown model: 'lenet' is not found"), error
            assert error.response.status_code == 404, error
        else:
            raise AssertionError("a model that is not there has answered")


if __name__ == "__main__":
    asyncio.run(main())
