"""Absolute paths in a sentence are reduced to their last part, and nothing else changes."""

from pathlib import Path

import pytest

from service.inference.paths import without_paths


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no such file: '/home/ann/models/a/1/model.pt'", "no such file: 'model.pt'"),
        ("/opt/lib/libcudart.so.12: cannot open", "libcudart.so.12: cannot open"),
        ('does not exist: "/dev/null/w.bin"', 'does not exist: "w.bin"'),
        ("(File /srv/x/y.py, line 3)", "(File y.py, line 3)"),
        ("at file=/srv/x/y.cc:12 in f", "at file=y.cc:12 in f"),
        (r"cannot read C:\Users\ann\models\x.pt", "cannot read x.pt"),
        ("at:/srv/x", "at:x"),
        ("see file:///srv/models/a.pt", "see a.pt"),
        ("see file:/srv/models/a.pt", "see a.pt"),
        ("see file://localhost/srv/models/a.pt", "see a.pt"),
        ("cannot read /secret", "cannot read secret"),
        ("cannot read /secret/", "cannot read secret"),
        ("cannot read //srv/x and /srv//x/y", "cannot read x and y"),
        ("--file=/srv/x", "--file=x"),
        ("no such file: '/home/ann lee/my models/a.pt'", "no such file: 'a.pt'"),
        ('no such file: "file:///home/ann lee/a.pt"', 'no such file: "a.pt"'),
        ("C:/Users/ann/x.pt is gone", "x.pt is gone"),
        (r"\\\\host\share\x.pt is gone", "x.pt is gone"),
        ("Status Message: /onnxruntime_src/onnxruntime/core/x.h:84 f", "Status Message: x.h:84 f"),
        ("Traceback:/a/b;/c/d,/e", "Traceback:b;d,e"),
        ("/srv/my models/line/1/model.pt is gone", "line/1/model.pt is gone"),
        ("/srv/my models is gone", "my models is gone"),
        ("package line/1: report/loss.png: and/or 1/2 N/A", None),
        ("see https://example.org/a/b", None),
        ("see http://127.0.0.1:3000/models/a, or s3://bucket/key", None),
        ("./a/b ../a/b a/b/c 3 / 4 1/2 and/or", None),
        ('it\'s 5/6 and "a/b"', None),
        ("it computes FP32 [-1, 2] / 3", None),
        ("", None),
    ],
)
def test_paths_are_reduced_to_their_last_part(text: str, message: str | None) -> None:
    assert without_paths(text, Path("/srv/my models")) == (text if message is None else message)
