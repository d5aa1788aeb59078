"""Render an overlay to its manifests: with kustomize, or with a substitute.

PyPI and Debian have no kustomize (PyPI's package of that name is another program). The substitute
supports what `deploy/kubernetes` uses and refuses the rest; if kustomize or kubectl is installed, a
test compares the two.
"""

import copy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "images"}
_KEYS = ("name", "mountPath", "containerPort")
"""Fields that identify list entries in a patch; a list without them is replaced."""


def by_kustomize(folder: Path) -> list[Manifest] | None:
    """Return the manifests of kustomize; None if it is not installed."""
    programs = (["kustomize", "build"], ["kubectl", "kustomize"])
    program_call = next((program for program in programs if shutil.which(program[0])), None)
    if program_call is None:
        return None
    completed = subprocess.run(
        [*program_call, str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert completed.returncode == 0, completed.stderr
    return list(yaml.safe_load_all(completed.stdout))


def by_stand_in(folder: Path) -> list[Manifest]:
    """Return the manifests of the substitute."""
    return _apply(folder, [])


def _apply(folder: Path, manifests: list[Manifest]) -> list[Manifest]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= _KNOWN, f"the stand-in does not know all of {folder}"
    for name in kustomization.get("resources", ()):
        path = folder / name
        if path.is_dir():
            manifests = manifests + by_stand_in(path)
        else:
            manifests = manifests + list(yaml.safe_load_all(path.read_text()))
    for name in kustomization.get("components", ()):
        manifests = _apply(folder / name, manifests)
    for patch in kustomization.get("patches", ()):
        (path,) = patch.values()
        change = yaml.safe_load((folder / path).read_text())
        (index,) = (
            n for n, manifest in enumerate(manifests) if identity(manifest) == identity(change)
        )
        manifests[index] = _merged(manifests[index], change)
    manifests = copy.deepcopy(manifests)
    for image in kustomization.get("images", ()):
        for container in containers(manifests):
            if container["image"] == image["name"]:
                name = image.get("newName", image["name"])
                container["image"] = f"{name}:{image['newTag']}"
    return manifests


def identity(manifest: Manifest) -> tuple[str, str]:
    """Return the kind and the name of a manifest."""
    return manifest["kind"], manifest["metadata"]["name"]


def containers(part: Any) -> Iterator[Manifest]:
    """Yield every container in a part of a manifest, at any depth."""
    if isinstance(part, list):
        for entry in part:
            yield from containers(entry)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name in ("containers", "initContainers"):
                yield from value
            else:
                yield from containers(value)


def _merged(old: Any, new: Any) -> Any:
    """Merge strategically: objects by field, lists by the names of their entries."""
    if isinstance(old, dict) and isinstance(new, dict):
        shared = {name: _merged(old[name], new[name]) for name in old.keys() & new.keys()}
        return {**old, **new, **shared}
    if isinstance(old, list) and isinstance(new, list):
        for key in _KEYS:
            if all(isinstance(entry, dict) and key in entry for entry in (*old, *new)):
                before = {entry[key]: entry for entry in old}
                after = {entry[key]: entry for entry in new}
                shared = {
                    name: _merged(before[name], after[name]) for name in before.keys() & after
                }
                return list({**after, **before, **shared}.values())
    return new
