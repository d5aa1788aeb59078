"""`fitserve init DIR` makes a folder that serves, with manifests that are valid."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kustomize_render import by_stand_in

from fitserve.init import TEMPLATE, main
from service.settings import Settings

SOURCES = ("volume", "s3", "image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert main([str(tmp_path / "mine")]) == 0
    return tmp_path / "mine"


def test_the_folder_has_an_empty_repository_and_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert main([str(folder)]) == 0
    files = {path.relative_to(TEMPLATE) for path in TEMPLATE.rglob("*") if path.is_file()}
    assert files == {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert list((folder / "models").iterdir()) == []
    assert f"fitserve serve --repository {folder / 'models'}" in capsys.readouterr().out


def test_a_folder_with_files_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path} is not empty: name a new folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def environments(content: Any) -> Iterator[str]:
    """Yield the names of all variables in a manifest or a compose file."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "environment":
                yield from value
            elif key == "env":
                yield from (variable["name"] for variable in value)
            else:
                yield from environments(value)
    elif isinstance(content, list):
        for value in content:
            yield from environments(value)


def check_names(names: Iterator[str]) -> None:
    ours = [name for name in names if name.startswith("FITSERVE_")]
    assert ours
    assert {name.removeprefix("FITSERVE_").lower() for name in ours} <= set(Settings.model_fields)


@pytest.mark.parametrize("source", SOURCES)
def test_the_manifests_are_valid_and_mount_the_models(source: str, folder: Path) -> None:
    kustomization = folder / "kubernetes" / "kustomization.yaml"
    chosen = kustomization.read_text().replace(
        "models-from-volume.yaml\n", f"models-from-{source}.yaml\n"
    )
    kustomization.write_text(chosen)
    manifests = by_stand_in(folder / "kubernetes")
    for manifest in manifests:
        for version in ("1.30", "1.36"):
            kubernetes_validate.validate(manifest, version, strict=True)
    (deployment,) = (manifest for manifest in manifests if manifest["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert {volume["name"] for volume in pod["volumes"]} == {"models", "state"}
    check_names(environments(deployment))


def test_the_settings_of_the_container_are_known(folder: Path) -> None:
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    check_names(environments(compose))
    lines = (folder / "fitserve.env").read_text().splitlines()
    check_names(line.lstrip("#").partition("=")[0] for line in lines if "=" in line)
