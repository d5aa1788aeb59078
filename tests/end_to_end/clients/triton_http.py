"""`tritonclient.http`, the synchronous client: every call that the service supports."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from questions import Question, given, of_rows
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

Outputs = list[InferRequestedOutput] | None


def inputs(question: Question, *, binary: bool) -> list[InferInput]:
    """Return the rows of the question as this client sends them."""
    tensor = InferInput(question.input, list(question.rows.shape), question.datatype)
    tensor.set_data_from_numpy(question.rows, binary_data=binary)
    return [tensor]


def outputs_of(question: Question) -> dict[str, Outputs]:
    """Return every way to request the outputs."""
    return {
        "no outputs named": None,
        "binary output": [InferRequestedOutput(question.output)],
        "JSON output": [InferRequestedOutput(question.output, binary_data=False)],
    }


def check_answer(question: Question, result: InferResult, context: str) -> None:
    """Check the numbers and the metadata of a response."""
    question.check(result.as_numpy(question.output), context)
    response = result.get_response()
    assert (response["model_name"], response["model_version"]) == (question.model, "1"), response
    (output,) = response["outputs"]
    assert output["datatype"] == "FP32", output
    assert output["shape"] == list(question.answer.shape), output
    binary = "JSON output" not in context
    assert ("data" in output) is not binary, f"{context}: {list(output)}"
    assert ("binary_data_size" in output.get("parameters", {})) is binary, f"{context}: {output}"


def check_inference(client: InferenceServerClient, questions: list[Question]) -> None:
    """Check every network and batch, JSON and binary, with every kind of output."""
    for question, sent_binary in itertools.product(questions, (True, False)):
        for how, expected in outputs_of(question).items():
            context = f"{'binary' if sent_binary else 'JSON'} input, {how}"
            sent = inputs(question, binary=sent_binary)
            result = client.infer(question.model, sent, outputs=expected, request_id=context)
            assert result.get_response()["id"] == context, result.get_response()
            check_answer(question, result, context)


def check_without_id(client: InferenceServerClient, question: Question) -> None:
    """Check a request without an ID, with a version and with custom parameters."""
    sent = inputs(question, binary=True)
    result = client.infer(question.model, sent, model_version="1", parameters={"mine": 1.5})
    assert "id" not in result.get_response(), result.get_response()
    check_answer(question, result, "with a version and a parameter")


def check_compression(client: InferenceServerClient, questions: list[Question]) -> None:
    """Check compressed requests and responses; the header length counts decompressed bytes."""
    codings = (None, "gzip", "deflate")
    for question, sent_binary in itertools.product(questions, (True, False)):
        for request, response in itertools.product(codings, codings):
            for how, expected in outputs_of(question).items():
                context = f"{how}, request {request}, response {response}, binary {sent_binary}"
                result = client.infer(
                    question.model,
                    inputs(question, binary=sent_binary),
                    outputs=expected,
                    request_compression_algorithm=request,
                    response_compression_algorithm=response,
                )
                check_answer(question, result, context)


def check_classes(client: InferenceServerClient, questions: list[Question]) -> None:
    """Check `class_count`: the most probable classes, at most all."""
    for question, binary, k in itertools.product(questions, (True, False), (1, 2, 1000)):
        expected = InferRequestedOutput(question.output, binary_data=binary, class_count=k)
        result = client.infer(question.model, inputs(question, binary=True), outputs=[expected])
        context = f"{k} classes, binary {binary}"
        question.check_classes(result.as_numpy(question.output), k, context)
        (output,) = result.get_response()["outputs"]
        assert output["datatype"] == "BYTES", output


def check_together(client: InferenceServerClient, questions: list[Question]) -> None:
    """Check eight concurrent asynchronous requests."""
    context = (questions * 8)[:8]
    waiting = [
        client.async_infer(question.model, inputs(question, binary=True)) for question in context
    ]
    for question, request in zip(context, waiting, strict=True):
        check_answer(question, request.get_result(), "eight at once")


def check_timeout(client: InferenceServerClient, question: Question) -> None:
    """Check `timeout`, in microseconds: long enough, and far too short."""
    sent = inputs(question, binary=True)
    check_answer(question, client.infer(question.model, sent, timeout=20_000_000), "20 s")
    try:
        check_answer(question, client.infer(question.model, sent, timeout=1), "1 microsecond")
    except InferenceServerException as error:
        assert error.status() == "504", error


def check_descriptions(client: InferenceServerClient, questions: list[Question]) -> None:
    """Check health, metadata, configuration and the index of the repository."""
    assert client.is_server_live()
    assert client.is_server_ready()
    server = client.get_server_metadata()
    assert server["name"] == "fitserve", server
    assert server["version"], server
    assert "binary_tensor_data" in server["extensions"], server
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    for question in questions:
        assert client.is_model_ready(question.model)
        assert client.is_model_ready(question.model, "1")
        assert not client.is_model_ready(question.model, "7")
        assert index[question.model]["version"] == "1", index
        assert index[question.model]["state"] == "READY", index
        for version in ("", "1"):
            metadata = client.get_model_metadata(question.model, version)
            config = client.get_model_config(question.model, version)
            assert metadata["versions"] == ["1"], metadata
            (taken,), (given_back,) = metadata["inputs"], metadata["outputs"]
            assert (taken["name"], taken["datatype"]) == (question.input, question.datatype)
            assert taken["shape"] == [-1, *question.rows.shape[1:]], taken
            assert (given_back["name"], given_back["datatype"]) == (question.output, "FP32")
            assert given_back["shape"] == [-1, *question.answer.shape[1:]], given_back
            assert config["name"] == question.model, config
            assert config["platform"] in ("onnxruntime_onnx", "pytorch_libtorch"), config
            assert config["input"][0]["format"] == "FORMAT_NONE", config
            assert config["max_batch_size"] >= 1, config
            assert config["input"][0]["name"] == question.input, config
            assert config["output"][0]["name"] == question.output, config


def check_statistics(client: InferenceServerClient, question: Question) -> None:
    """Check that the counts grow by the number of requests."""

    def counts() -> tuple[int, int]:
        (model,) = client.get_inference_statistics(question.model)["model_stats"]
        assert (model["name"], model["version"]) == (question.model, "1"), model
        return model["inference_count"], model["inference_stats"]["success"]["count"]

    before = counts()
    for _ in range(3):
        client.infer(question.model, inputs(question, binary=True))
    rows = 3 * len(question.rows)
    assert counts() == (before[0] + rows, before[1] + 3), (before, counts())
    everyone = client.get_inference_statistics()["model_stats"]
    assert question.model in {model["name"] for model in everyone}, everyone


def check_errors(client: InferenceServerClient, question: Question) -> None:
    """Check that a failure is an `InferenceServerException` with the sentence of the service."""

    def refused(call: Callable[..., Any], *arguments: Any, status: str, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except InferenceServerException as error:
            assert error.status() == status, f"{error}; {status} was to be expected"
            assert "exception occurred in the client" not in error.message(), error
            assert error.message().endswith("."), error
        else:
            raise AssertionError(f"{arguments} {options} was answered, and not with {status}")

    name, sent = question.model, inputs(question, binary=True)
    refused(client.infer, "lenet", sent, status="404")
    refused(client.infer, name, sent, model_version="7", status="404")
    refused(client.get_model_metadata, "lenet", status="404")
    refused(client.get_model_config, "lenet", status="404")
    refused(client.get_inference_statistics, "lenet", status="404")
    refused(client.infer, name, sent, outputs=[InferRequestedOutput("none")], status="400")
    twice = [InferRequestedOutput(question.output)] * 2
    refused(client.infer, name, sent, outputs=twice, status="400")
    for tensor, rows in (
        (InferInput("none", list(question.rows.shape), question.datatype), question.rows),
        (InferInput(question.input, [1, 3], question.datatype), question.rows.reshape(-1)[:3]),
        (InferInput(question.input, list(question.rows.shape), "FP64"), question.rows),
    ):
        array = rows.reshape(tensor.shape()).astype(
            "float64" if tensor.datatype() == "FP64" else rows.dtype
        )
        tensor.set_data_from_numpy(array)
        refused(client.infer, name, [tensor], status="400")
    for change in (client.load_model, client.unload_model):
        try:
            change(name)
        except InferenceServerException as error:
            assert error.status() in ("404", "405"), error
        else:
            raise AssertionError(f"{change} changed what is served")


def main() -> None:
    """Run all checks."""
    address, questions = given()
    seven = list(of_rows(questions, 7))
    with InferenceServerClient(address, network_timeout=60, concurrency=8) as client:
        check_descriptions(client, seven)
        check_inference(client, questions)
        check_without_id(client, seven[0])
        check_compression(client, seven)
        check_classes(client, seven)
        check_together(client, seven)
        check_timeout(client, seven[0])
        check_statistics(client, seven[0])
        check_errors(
            client, next(question for question in seven if question.rows.dtype == np.float32)
        )


if __name__ == "__main__":
    main()
