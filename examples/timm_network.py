"""Make a package of a network of timm, serve it and ask it about a picture."""

import base64
import tempfile
from pathlib import Path

import timm
from serving import ask, serving

import fitserve


def main() -> None:
    """Do it, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as repository:
        # In your script: pretrained=True, or your own weights.
        network = timm.create_model("test_resnet", num_classes=2)
        fitserve.save("cat-or-dog", network, labels=["cat", "dog"], repository=repository)
        picture = Path(__file__).parent.parent / "docs" / "three.png"
        with serving(repository) as server:
            rows = [base64.b64encode(picture.read_bytes()).decode()]
            (answer,) = ask(server, "cat-or-dog", rows)
            print(picture.name, "is a", answer["label"])


if __name__ == "__main__":
    main()
