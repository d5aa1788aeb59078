"""Networks for pictures: callers send files, and get what the training library's pipeline gives."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from live_server import serving, temporary_home
from PIL import Image
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor

import fitserve
from models.package.repository import ModelRepository

TRANSFORM = ResNet18_Weights.DEFAULT.transforms()
LABELS = ["cat", "dog", "bird"]


class Small(nn.Module):
    """A network for pictures of 224 x 224."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Linear(128, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1)).softmax(dim=1)


def picture(seed: int, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Return a smooth picture."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (9, 7, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


SIZES = ((300, 400), (640, 480), (224, 224), (100, 180), (1001, 333))
PICTURES = [picture(number, size) for number, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    fitserve.save(
        "small", Small(), PICTURES, labels=LABELS, picture=fitserve.Picture.of(TRANSFORM),
        transform=TRANSFORM, repository=folder,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def client(root: Path, repository: Path) -> Iterator[httpx.Client]:
    settings = {"FITSERVE_MODEL_REPOSITORY": str(repository), "FITSERVE_DEVICE": "cpu"}
    with (
        temporary_home() as home,
        serving(home, root, settings=settings) as server,
        httpx.Client(base_url=server.url, timeout=60) as opened,
    ):
        yield opened


def expected(images: list[Image.Image]) -> Any:
    with torch.inference_mode():
        return Small().eval()(torch.stack([TRANSFORM(image) for image in images])).numpy()


def check(response: httpx.Response, images: list[Image.Image]) -> None:
    assert response.status_code == 200, response.text
    rows = response.json()["predictions"]
    found = [[row["scores"][label] for label in LABELS] for row in rows]
    np.testing.assert_allclose(found, expected(images), atol=1e-5)
    assert [row["label"] for row in rows] == [LABELS[np.argmax(row)] for row in found]


def test_the_card_says_how_a_picture_becomes_the_input(repository: Path) -> None:
    (spec,) = ModelRepository(repository).get("small").card.inputs
    assert spec.to_text() == "UINT8 [-1, 3, 224, 224]"
    assert spec.picture is not None
    assert (spec.picture.resize, spec.picture.interpolation) == (256, "bilinear")


def test_files_of_a_form_are_answered_as_in_training(client: httpx.Client) -> None:
    files = [("images", (f"{at}.png", file_of(image))) for at, image in enumerate(PICTURES)]
    check(client.post("/models/small/predict", files=files), PICTURES)


@pytest.mark.parametrize("form", ["text", "object", "named", "url"])
def test_base64_in_json_is_answered_as_in_training(form: str, client: httpx.Client) -> None:
    texts = [base64.b64encode(file_of(image)).decode() for image in PICTURES]
    rows: Any = {
        "text": texts,
        "object": [{"b64": text} for text in texts],
        "named": [{"image": {"b64": text}} for text in texts],
        "url": [f"data:image/png;base64,{text}" for text in texts],
    }[form]
    check(client.post("/models/small/predict", json={"instances": rows}), PICTURES)
    answered = client.post("/v1/models/small:predict", json={"instances": rows})
    np.testing.assert_allclose(answered.json()["predictions"], expected(PICTURES), atol=1e-5)


def test_pixels_are_answered_by_each_protocol(client: httpx.Client) -> None:
    pixels = np.stack([np.asarray(picture(9, (224, 224))).transpose(2, 0, 1)] * 2)
    tensor = {"name": "image", "shape": pixels.shape, "datatype": "UINT8"}
    tensor["data"] = pixels.ravel().tolist()
    answered = client.post("/v2/models/small/infer", json={"inputs": [tensor]}).json()
    rows = client.post("/models/small/predict", json={"instances": pixels.tolist()}).json()
    scores = [[row["scores"][label] for label in LABELS] for row in rows["predictions"]]
    np.testing.assert_allclose(np.ravel(scores), answered["outputs"][0]["data"], atol=1e-6)


def test_a_picture_of_a_camera_is_turned_upright(client: httpx.Client) -> None:
    upright = picture(3, (320, 240))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter clockwise
    file = file_of(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    check(client.post("/models/small/predict", files={"a": file}), [upright])


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("PNG", "L"), ("PNG", "RGBA"), ("GIF", "P"), ("BMP", "RGB")]
)
def test_other_formats_and_modes_are_those_of_pillow(
    kind: str, mode: str, client: httpx.Client
) -> None:
    file = file_of(picture(5, (300, 280), mode), kind)
    read = Image.open(io.BytesIO(file)).convert("RGB")
    check(client.post("/models/small/predict", files={"a": file}), [read])


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"instances": ["no base64!"]}, 400, "A picture is no base64"),
        ({"instances": [base64.b64encode(b"text").decode()]}, 400, "not a picture; send a PNG"),
        ({"instances": [{"b64": 3}]}, 400, "A picture must be a text in base64"),
        ({"instances": [{"url": "http://x"}]}, 400, "Each row must be an object with the inputs"),
        ({"instances": [[1, 2]]}, 400, "tensor 'image' does not have the shape"),
    ],
)
def test_what_is_no_picture_gets_a_sentence(
    body: Any, status: int, message: str, client: httpx.Client
) -> None:
    response = client.post("/models/small/predict", json=body)
    assert response.status_code == status
    assert message in response.json()["error"]


OTHER = Compose([Resize(224), CenterCrop(224), ToTensor()])
BICUBIC = Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224), ToTensor()])


@pytest.mark.parametrize("transform", [OTHER, BICUBIC, lambda image: TRANSFORM(image) * 1.001])
def test_steps_that_are_declared_wrongly_are_refused(transform: Any, tmp_path: Path) -> None:
    with pytest.raises(fitserve.SaveError, match="becomes another input by the declared steps"):
        fitserve.save(
            "small", Small(), PICTURES, picture=fitserve.Picture.of(TRANSFORM),
            transform=transform, repository=tmp_path,
        )  # fmt: skip


@pytest.mark.parametrize(
    "steps",
    [
        fitserve.Picture((96, 64), interpolation="bicubic"),
        fitserve.Picture(64, resize=80, channels="BGR", mean=(0.5,), std=(0.25,)),
        fitserve.Picture(28, channels="L"),
    ],
)
def test_the_steps_are_those_of_pillow(steps: fitserve.Picture, tmp_path: Path) -> None:
    from models.kinds.pictures import PictureSpec

    spec = PictureSpec(**steps.declared()["picture"])
    image = picture(2, (130, 97))
    height, width = steps.sides
    grey = image.convert("L" if steps.channels == "L" else "RGB")
    if steps.resize:
        cut = Compose([Resize(steps.resize), CenterCrop((height, width))])(grey)
    else:
        cut = grey.resize((width, height), Image.Resampling.BICUBIC if width == 64 else 2)
    wanted = np.asarray(cut)[..., ::-1] if steps.channels == "BGR" else np.asarray(cut)
    wanted = wanted[None] if wanted.ndim == 2 else wanted.transpose(2, 0, 1)
    np.testing.assert_array_equal(spec.pixels(image, steps.shape), wanted)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"size": 0}, "size 0 and resize None: give pixels"),
        ({"size": "28"}, "size '28' and resize None: give pixels"),
        ({"size": 28, "channels": "HSV"}, "channels='HSV': give one of RGB, BGR, L"),
        ({"size": 28, "interpolation": "cubic"}, "interpolation='cubic': give one of nearest"),
        ({"size": 28, "std": (0.0,)}, "a deviation of 0 in std"),
    ],
)
def test_steps_that_are_not_known_are_explained(steps: dict[str, Any], message: str) -> None:
    with pytest.raises(fitserve.ExportError, match=message):
        fitserve.Picture(**steps)


@pytest.mark.parametrize(
    ("network", "pictures", "steps", "message"),
    [
        (Small(), [], {"size": 28}, r"a dict states no steps for pictures: give fitserve\.Picture"),
        (object(), [], fitserve.Picture(28), "a object takes no pictures: give a torch"),
        (Small(), PICTURES[0], fitserve.Picture(28), "the sample is a Image: give a list"),
    ],
)
def test_pictures_of_another_kind_are_explained(
    network: Any, pictures: Any, steps: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(fitserve.ExportError, match=message):
        fitserve.save("net", network, pictures, picture=steps, repository=tmp_path)
