"""KServe's `InferenceRESTClient` with version 1 of its protocol."""

import asyncio

import httpx
from kserve import InferenceRESTClient
from kserve.inference_client import RESTConfig
from questions import given, of_rows


async def main() -> None:
    """Send the questions of one row and of seven, as rows and as rows with the input's name."""
    address, questions = given()
    base = f"http://{address}"
    async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=60)) as client:
        for question in (*of_rows(questions, 1), *of_rows(questions, 7)):
            assert await client.is_model_ready(base, question.model) is True
            rows = question.rows.tolist()
            for instances in (rows, [{question.input: row} for row in rows]):
                answer = await client.infer(
                    base, {"instances": instances}, model_name=question.model
                )
                question.check(answer["predictions"], "V1")
        for ask in (
            lambda: client.infer(base, {"instances": [1]}, model_name="lenet"),
            lambda: client.is_model_ready(base, "lenet"),
        ):
            try:
                await ask()
            except httpx.HTTPStatusError as error:
                assert str(error).startswith("Request for unknown model: 'lenet'"), error
                assert error.response.status_code == 404, error
            else:
                raise AssertionError("a model that is not there has answered")


if __name__ == "__main__":
    asyncio.run(main())
