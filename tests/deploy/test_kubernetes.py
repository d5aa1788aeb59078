"""The manifests of `deploy/kubernetes`: valid, true to the real service, and safe to apply."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from kustomize_render import Manifest, by_kustomize, by_stand_in, containers, identity
from live_server import Server, serving, temporary_home

from service.settings import Settings
from service.transport.supervisor import KILL_SECONDS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "kserve")
VERSIONS = ("1.30", "1.36")
"""The oldest version in `deploy/README.md`, and a new one."""
CUSTOM = ("ServiceMonitor", "InferenceService")
DEFAULTS = Settings()
BYTES = {"Mi": 2**20, "Gi": 2**30}


def rendered(overlay: str) -> list[Manifest]:
    return by_stand_in(FOLDER / "overlays" / overlay)


def one(overlay: str, kind: str) -> Manifest:
    (found,) = (manifest for manifest in rendered(overlay) if manifest["kind"] == kind)
    return found


def pod(overlay: str) -> Manifest:
    """Return the pod of an overlay as a separate manifest."""
    if overlay == "kserve":
        extended = one(overlay, "InferenceService")["spec"]["predictor"]
        kserves = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")
        spec = {name: value for name, value in extended.items() if name not in kserves}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
    template = one(overlay, "Deployment")["spec"]["template"]
    return {"apiVersion": "v1", "kind": "Pod", **template}


def container(overlay: str) -> dict[str, Any]:
    (found,) = containers(pod(overlay))
    return found


def environment(overlay: str) -> dict[str, str]:
    """Return the container's environment as the kubelet resolves it."""
    limits = container(overlay)["resources"]["limits"]
    return {
        entry["name"]: entry["value"]
        if "value" in entry
        else str(math.ceil(Decimal(limits[entry["valueFrom"]["resourceFieldRef"]["resource"][7:]])))
        for entry in container(overlay)["env"]
    }


def in_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * BYTES[quantity[-2:]]


@pytest.fixture(scope="module")
def pod_server() -> Iterator[Server]:
    """A server with the command and environment of a pod of the cpu overlay."""
    _, *options = container("cpu")["args"]
    settings = environment("cpu")
    with temporary_home() as home, serving(home, ROOT, *options, settings=settings) as server:
        yield server


def with_keys(folder: Path) -> Path:
    """Write an overlay with the component of the keys, as in its comment."""
    (folder / "kustomization.yaml").write_text(
        f"resources: [{FOLDER}/overlays/cpu]\ncomponents: [{FOLDER}/components/keys]\n"
    )
    return folder


@pytest.mark.parametrize("overlay", [*OVERLAYS, "cpu with keys"])
def test_the_stand_in_renders_as_kustomize(overlay: str, tmp_path: Path) -> None:
    folder = FOLDER / "overlays" / overlay
    if overlay == "cpu with keys":  # kustomize refuses absolute paths
        (tmp_path / "kubernetes").mkdir()
        subprocess.run(["cp", "-r", *FOLDER.iterdir(), tmp_path / "kubernetes"], check=True)
        folder = tmp_path / "kubernetes" / "overlays" / "keys"
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(
            "resources: [../cpu]\ncomponents: [../../components/keys]\n"
        )
    by_the_real_one = by_kustomize(folder)
    if by_the_real_one is None:
        pytest.skip("needs kustomize or kubectl, to compare the stand-in with")
    assert sorted(by_stand_in(folder), key=identity) == sorted(by_the_real_one, key=identity)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_is_valid(overlay: str, version: str) -> None:
    checked = [manifest for manifest in rendered(overlay) if manifest["kind"] not in CUSTOM]
    for manifest in [*checked, pod(overlay)]:
        used = kubernetes_validate.validate(manifest, version, strict=True)
        assert used == version
    assert len(checked) == (0 if overlay == "kserve" else 5)


def test_an_unknown_field_is_detected() -> None:
    wrong = pod("cpu")
    wrong["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


KSERVE = """
import json, sys
import kserve

predictor = json.load(sys.stdin)
fields = kserve.V1beta1PredictorSpec.attribute_map.values()
print(json.dumps(sorted(set(predictor) - set(fields))))
"""


def test_kserve_knows_every_field_of_the_predictor() -> None:
    python = Path(sys.prefix, "clients", "bin", "python")
    if not python.exists():
        pytest.skip("the clients are not installed: make test does that")
    predictor = one("kserve", "InferenceService")["spec"]["predictor"]
    completed = subprocess.run(
        [python, "-c", KSERVE],
        input=json.dumps(predictor),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout.splitlines()[-1]) == []


def test_the_inference_service_is_a_custom_predictor_of_the_second_protocol() -> None:
    manifest = one("kserve", "InferenceService")
    assert manifest["apiVersion"] == "serving.kserve.io/v1beta1"
    assert container("kserve")["name"] == "kserve-container"  # the name that KServe requires
    assert environment("kserve")["PROTOCOL"] == "v2"


def test_the_pod_of_kserve_differs_from_the_cpu_pod_only_as_kserve_requires() -> None:
    fitserve_container, kserve_container = container("cpu"), container("kserve")
    text = json.dumps(kserve_container).replace('"port": 3000', '"port": "http"')
    kserve_container = {
        **json.loads(text),
        "name": fitserve_container["name"],
        "ports": fitserve_container["ports"],
    }
    kserve_container["env"] = [
        entry for entry in kserve_container["env"] if entry["name"] != "PROTOCOL"
    ]
    assert kserve_container == fitserve_container
    differing = {
        name
        for name in pod("cpu")["spec"].keys() | pod("kserve")["spec"].keys()
        if pod("cpu")["spec"].get(name) != pod("kserve")["spec"].get(name)
    }
    assert differing == {"containers", "topologySpreadConstraints"}


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_all_selectors_match_the_pods(overlay: str) -> None:
    deployment = one(overlay, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    (spread,) = pod(overlay)["spec"]["topologySpreadConstraints"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        one(overlay, "Service")["spec"]["selector"],
        one(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels
    monitor, service = one(overlay, "ServiceMonitor"), one(overlay, "Service")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    expected = monitor["spec"]["selector"]["matchLabels"]
    assert expected.items() <= service["metadata"]["labels"].items()
    target = one(overlay, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == identity(deployment)
    assert target["apiVersion"] == deployment["apiVersion"]
    assert "replicas" not in deployment["spec"], "every apply would undo the autoscaler"


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_every_named_port_exists_in_the_container(overlay: str) -> None:
    (port,) = container(overlay)["ports"]
    assert port["containerPort"] == 3000
    (service,) = one(overlay, "Service")["spec"]["ports"]
    assert service["targetPort"] == port["name"]
    (monitored,) = one(overlay, "ServiceMonitor")["spec"]["endpoints"]
    assert monitored["port"] == service["name"]
    (rule,) = one(overlay, "NetworkPolicy")["spec"]["ingress"]
    assert rule["ports"] == [{"port": port["name"]}]


PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("probe", PROBES)
def test_the_service_responds_to_every_probe(overlay: str, probe: str, pod_server: Server) -> None:
    requested = container(overlay)[probe]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in container(overlay)["ports"]}
    assert ports.get(requested["port"], requested["port"]) == 3000
    assert httpx.get(pod_server.url + requested["path"]).status_code == 200


def test_the_scrape_annotations_match_the_metrics_endpoint(pod_server: Server) -> None:
    (endpoint,) = one("cpu", "ServiceMonitor")["spec"]["endpoints"]
    response = httpx.get(pod_server.url + endpoint["path"])
    assert "fitserve_expected_wait_seconds{" in response.text


def test_a_gpu_pod_that_finds_no_gpu_gets_no_requests_and_is_not_restarted() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    spec = container("gpu")
    settings = environment("gpu")
    live = spec["livenessProbe"]["httpGet"]["path"]
    with temporary_home() as home, serving(home, ROOT, until=live, settings=settings) as server:
        ready = httpx.get(server.url + spec["readinessProbe"]["httpGet"]["path"])
        assert ready.status_code == 503


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_probes_and_the_grace_period_allow_start_and_shutdown(overlay: str) -> None:
    spec = container(overlay)
    start = spec["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 300
    until_unready = spec["readinessProbe"]["periodSeconds"] * 2
    wait = spec["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert wait >= 5
    longest = (
        DEFAULTS.body_timeout_seconds + DEFAULTS.timeout_seconds + DEFAULTS.max_compute_seconds
    )
    # The server's own timeout; the image's command and the setting are 30 s.
    command, option, drain = container(overlay)["args"]
    assert (command, option) == ("serve", "--timeout-graceful-shutdown")
    assert int(drain) >= longest
    end = wait + int(drain) + KILL_SECONDS
    assert pod(overlay)["spec"]["terminationGracePeriodSeconds"] > end
    live = spec["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] > until_unready


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_setting_of_a_pod_is_one_of_the_service(overlay: str) -> None:
    variables = environment(overlay)
    settings = {
        name.removeprefix("FITSERVE_").lower() for name in variables if name.startswith("FITS")
    }
    assert settings
    assert settings <= set(Settings.model_fields)
    assert variables["BENTOML_HOST"] == "0.0.0.0"  # noqa: S104 - its documented value
    assert int(variables["FITSERVE_INTRA_OP_THREADS"]) >= 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_have_minimal_privileges(overlay: str) -> None:
    spec = pod(overlay)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    all_containers = list(containers(rendered(overlay)))
    assert all_containers
    for one_container in all_containers:
        may = one_container["securityContext"]
        assert may["readOnlyRootFilesystem"] is True
        assert may["allowPrivilegeEscalation"] is False
        assert may["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in may
    (volume,) = spec["volumes"]
    assert "emptyDir" in volume
    (mount,) = container(overlay)["volumeMounts"]
    assert mount == {"name": volume["name"], "mountPath": "/var/lib/fitserve"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_image_has_a_fixed_tag(overlay: str) -> None:
    images = [one_container["image"] for one_container in containers(rendered(overlay))]
    assert images == ["fitserve:gpu" if overlay == "gpu" else "fitserve:cpu"]


@pytest.mark.parametrize(("overlay", "measured"), [("cpu", "ONNX Runtime alone"), ("gpu", "torch")])
def test_the_limits_cover_the_measured_memory(overlay: str, measured: str) -> None:
    report = (ROOT / "benchmarks" / "README.md").read_text()
    (megabytes,) = re.findall(rf"\| fitserve, (?:with )?{measured} \| (\d+) \(", report)
    resources = container(overlay)["resources"]
    rest = int(megabytes) * 10**6
    assert in_bytes(resources["requests"]["memory"]) > 2 * rest
    # Also measured: 977 MB for 64 MiB of JSON, 508 MB for a PNG of 40 million pixels, one of each
    # at a time.
    body = 15 * int(environment(overlay)["FITSERVE_MAX_BODY_BYTES"])
    picture = 13 * DEFAULTS.max_image_pixels
    assert in_bytes(resources["limits"]["memory"]) > 1.5 * (rest + body + picture)
    bodies = int(environment(overlay)["FITSERVE_MAX_BUFFERED_BYTES"])
    assert in_bytes(resources["limits"]["memory"]) > 1.2 * (rest + body + picture + bodies)
    assert Decimal(resources["requests"]["cpu"]) >= 1  # the load of one worker's event loop


def test_a_gpu_pod_has_one_gpu_and_one_worker_and_rolls_without_a_spare_one() -> None:
    assert container("gpu")["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert environment("gpu")["BENTOML_CONFIG_OPTIONS"] == "services.fitserve.workers=1"
    assert environment("gpu")["FITSERVE_DEVICE"] == "cuda:0"
    assert environment("gpu")["FITSERVE_REQUIRE_DEVICE"] == "true"
    assert one("gpu", "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_a_cpu_rollout_removes_no_pod_before_a_new_one_is_ready() -> None:
    assert one("cpu", "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_autoscaler_uses_the_queue_metric_or_cpu(overlay: str, pod_server: Server) -> None:
    pods, resource = one(overlay, "HorizontalPodAutoscaler")["spec"]["metrics"]
    name = pods["pods"]["metric"]["name"]
    assert f"\n{name}{{" in httpx.get(pod_server.url + "/metrics").text
    milliseconds = int(pods["pods"]["target"]["averageValue"].removesuffix("m"))
    assert 0 < milliseconds < 1_000 * DEFAULTS.max_queue_seconds, "requests would be refused first"
    assert resource["resource"]["name"] == "cpu"
    requested = Decimal(container(overlay)["resources"]["requests"]["cpu"])
    share = Decimal(resource["resource"]["target"]["averageUtilization"]) / 100
    assert share * requested < 1, "an event loop that is full takes a core: it would never scale"
    (rule,) = yaml.safe_load((FOLDER / "adapter-rules.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")
    spec = one(overlay, "HorizontalPodAutoscaler")["spec"]
    budget = one(overlay, "PodDisruptionBudget")["spec"]
    assert spec["minReplicas"] > budget["maxUnavailable"], "a drained node would end the service"


def test_the_keys_are_mounted_at_the_path_of_the_setting(tmp_path: Path) -> None:
    manifests = by_stand_in(with_keys(tmp_path))
    (deployment,) = (manifest for manifest in manifests if manifest["kind"] == "Deployment")
    (found,) = containers(deployment)
    (path,) = (
        entry["value"] for entry in found["env"] if entry["name"] == "FITSERVE_API_KEYS_FILE"
    )
    (mount,) = (mount for mount in found["volumeMounts"] if mount["name"] == "keys")
    assert Path(path).parent == Path(mount["mountPath"])
    assert mount["readOnly"] is True
    assert "subPath" not in mount
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert {volume["name"] for volume in volumes} == {"state", "keys"}
    for version in VERSIONS:
        kubernetes_validate.validate(deployment, version, strict=True)
    assert len(found["env"]) == len(environment("cpu")) + 1, "it takes nothing away"
