"""Data frames of pandas, as MLflow documents the requests to its scoring server.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally
"""

import json
from typing import Any

import httpx
import pandas as pd
from questions import Question, given, of_rows


def bodies(frame: pd.DataFrame, question: Question) -> list[tuple[str, str]]:
    """Return each form of the rows: the type and the body."""
    split = json.loads(frame.to_json(orient="split"))
    records = json.loads(frame.to_json(orient="records"))
    rows = question.rows.tolist()
    forms: list[dict[str, Any]] = [
        {"dataframe_split": split},
        {"dataframe_split": {"data": split["data"]}},
        {"dataframe_records": records},
        {"instances": rows},
        {"inputs": rows},
        {"inputs": {question.input: rows}},
        {"inputs": rows, "params": {"temperature": 0.5}},
    ]
    return [("text/csv", frame.to_csv(index=False))] + [
        ("application/json", json.dumps(form)) for form in forms
    ]


def main() -> None:
    """Send the questions about points and curves."""
    address, questions = given()
    with httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        assert client.get("/ping").status_code == client.get("/health").status_code == 200
        for question in of_rows(questions, 7):
            if question.rows.ndim != 2:
                continue
            names = [f"x{at}" for at in range(question.rows.shape[1])]
            frame = pd.DataFrame(question.rows, columns=names)
            for media_type, body in bodies(frame, question):
                answer = client.post(
                    "/invocations",
                    content=body,
                    headers={"Content-Type": media_type, "X-Model": question.model},
                )
                assert answer.status_code == 200, f"{body[:80]}: {answer.text}"
                question.check(answer.json()["predictions"], body[:40])


if __name__ == "__main__":
    main()
