"""`tritonclient.http.aio`, the asyncio client: concurrent requests, and their responses."""

import asyncio
import itertools

from questions import Question, given, of_rows
from triton_http import check_answer, inputs, outputs_of
from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException


async def ask(client: InferenceServerClient, question: Question, *, binary: bool) -> None:
    """Send the rows once for each way to request the outputs."""
    for how, expected in outputs_of(question).items():
        result = await client.infer(
            question.model, inputs(question, binary=binary), outputs=expected, request_id=how
        )
        assert result.get_response()["id"] == how, result.get_response()
        check_answer(question, result, f"{how}, binary input {binary}, among others")


async def ask_compressed(client: InferenceServerClient, question: Question) -> None:
    """Compressed requests and responses."""
    for request, response in itertools.product((None, "gzip", "deflate"), repeat=2):
        for how, expected in outputs_of(question).items():
            result = await client.infer(
                question.model,
                inputs(question, binary=True),
                outputs=expected,
                request_compression_algorithm=request,
                response_compression_algorithm=response,
            )
            check_answer(question, result, f"{how}, request {request}, response {response}")


async def describe(client: InferenceServerClient, question: Question) -> None:
    """Health, metadata, configuration, statistics."""
    assert await client.is_model_ready(question.model)
    assert not await client.is_model_ready(question.model, "7")
    assert (await client.get_model_metadata(question.model))["name"] == question.model
    assert (await client.get_model_config(question.model))["name"] == question.model
    statistics = await client.get_inference_statistics(question.model)
    assert statistics["model_stats"][0]["name"] == question.model, statistics


async def refused(client: InferenceServerClient, question: Question) -> None:
    """A failure is an `InferenceServerException` with the sentence of the service."""
    try:
        await client.infer("lenet", inputs(question, binary=True))
    except InferenceServerException as error:
        assert error.message().startswith("Request for unknown model: 'lenet' is not found"), error
        assert "404" in str(error.status()), error
    else:
        raise AssertionError("a model that is not there has answered")


async def main() -> None:
    """Send all questions concurrently."""
    address, questions = given()
    async with InferenceServerClient(address, conn_timeout=120) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert (await client.get_server_metadata())["name"] == "fitserve"
        index = {entry["name"] for entry in await client.get_model_repository_index()}
        assert index >= {question.model for question in questions}, index
        seven = list(of_rows(questions, 7))
        await asyncio.gather(
            *(
                ask(client, question, binary=binary)
                for question in questions
                for binary in (True, False)
            ),
            *(ask_compressed(client, question) for question in seven),
            *(describe(client, question) for question in seven),
            *(refused(client, question) for question in seven),
        )


if __name__ == "__main__":
    asyncio.run(main())
