"""What deploy/ says of the gateway is so: names of settings, ports and paths of probes, times, sizes.

Whether the files are what Kubernetes and Compose understand is for ``scripts/manifests``.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from codegen_api import create_app
from codegen_api.http.draining import REQUEST_SECONDS
from codegen_api.program.serve import _parser
from codegen_api.settings import Settings, read_settings, suspicious_variables
from codegen_api.settings.environment import PREFIX, SettingsError

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
FAKE, REAL = "REPLACE-ME", "0123456789abcdef" * 4
KEYS = f"ci digest=sha256:{'0' * 64} scopes=runs:read"

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
NGINX = (DEPLOY / "nginx.conf").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MANIFESTS = {
    path.name: list(yaml.safe_load_all(path.read_text()))
    for path in sorted(KUBERNETES.glob("*.yaml"))
    if path.name != "kustomization.yaml"
}
ALL = [manifest for manifests in MANIFESTS.values() for manifest in manifests]
DEPLOYMENTS = [each for each in ALL if each["kind"] == "Deployment"]
PODS = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in DEPLOYMENTS}
SHARED, WITH_AN_AGENT = "gateway", "agent"


def data(kind: str, name: str) -> dict[str, str]:
    """What a ConfigMap or a Secret holds."""
    (found,) = (each for each in ALL if (each["kind"], each["metadata"]["name"]) == (kind, name))
    held: dict[str, str] = found.get("data", {}) | found.get("stringData", {})
    return held


def the_gateway(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = (each for each in pod["containers"] if each["name"] == "gateway")
    container: dict[str, Any] = found
    return container


def of_compose() -> dict[str, str]:
    """The environment of a gateway there, with what Compose puts in from the example file."""
    lines = (DEPLOY / "example.env").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    service = COMPOSE["services"]["gateway-1"]
    assert service["env_file"] == ".env"
    named = {
        name: re.sub(r"\$\{(\w+):\?\}", lambda it: example[it[1]], it) for name, it in service["environment"].items()
    }
    return example | named


def of_the_shared_one() -> dict[str, str]:
    sources = the_gateway(PODS[SHARED])["envFrom"]
    assert sources == [{"configMapRef": {"name": "gateway"}}, {"secretRef": {"name": "gateway"}}]
    return data("ConfigMap", "gateway") | data("Secret", "gateway")


def of_the_one_with_an_agent() -> dict[str, str]:
    return {each["name"]: each["value"] for each in the_gateway(PODS[WITH_AN_AGENT])["env"]}


ENVIRONMENTS = {"compose": of_compose(), SHARED: of_the_shared_one(), WITH_AN_AGENT: of_the_one_with_an_agent()}


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That of a gateway, set; where a file is mounted, it holds what the Secret does."""
    found = dict(ENVIRONMENTS[request.param])
    for name, value in found.items():
        if value.startswith("/run/secrets/agent/"):
            secret = tmp_path / Path(value).name
            secret.write_text(data("Secret", "agent")[secret.name])
            found[name] = str(secret)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def fill_in(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what the comments say."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace(FAKE, REAL))
        if name.endswith("_FILE"):
            Path(value).write_text(KEYS if name == "CODEGEN_API_KEYS_FILE" else REAL)


def settings_of(name: str) -> Settings:
    """The settings that its environment has in plain sight, and the defaults of the others."""
    plain = {key.removeprefix(PREFIX).lower(): value for key, value in ENVIRONMENTS[name].items() if FAKE not in value}
    given: Any = {key: value for key, value in plain.items() if key in Settings.model_fields and key != "database_url"}
    return Settings(_env_file=None, **given)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_every_name_of_a_setting_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [path.read_text() for path in DEPLOY.rglob("*") if path.suffix in {".yaml", ".env", ".conf"}]
    names = {name for text in texts for name in re.findall(r"\bCODEGEN_\w+", text)}
    assert len(names) > 10
    for name in names:
        monkeypatch.setenv(name, "1")
    assert suspicious_variables("opencode") == []


def test_the_gateway_does_not_start_with_the_secrets_of_an_example(environment: dict[str, str]) -> None:
    assert FAKE in "".join(environment.values()) or any(name.endswith("_FILE") for name in environment)
    with pytest.raises(SettingsError, match="CODEGEN_SECRET_KEY: a key needs 32 characters"):
        read_settings()


def test_it_starts_when_they_are_replaced(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    fill_in(environment, monkeypatch)
    settings = read_settings()
    create_app(settings)
    assert settings.secret_key is not None


# -- ports, paths, times ----------------------------------------------------------------------------------------------


def probes() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, pod in PODS.items():
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            yield name, kind, the_gateway(pod)[kind]


def test_probes_ask_what_the_gateway_answers() -> None:
    routes = {getattr(route, "path", None) for route in create_app(Settings(_env_file=None)).routes}
    assert {probe["httpGet"]["path"] for _, _, probe in probes()} == {"/livez", "/readyz"} <= routes
    assert {probe["httpGet"]["port"] for _, _, probe in probes()} == {"http"}
    default = Settings.model_fields["port"].default
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(default)]
    for pod in PODS.values():
        assert the_gateway(pod)["ports"] == [{"name": "http", "containerPort": default}]
    for service in (each for each in ALL if each["kind"] == "Service"):
        assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]


def test_a_drain_fits_into_the_time_that_a_pod_has_to_end() -> None:
    for name, pod in PODS.items():
        before = the_gateway(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]
        whole = before + settings_of(name).drain_seconds + REQUEST_SECONDS
        assert pod["terminationGracePeriodSeconds"] >= whole + 5
        alive = the_gateway(pod)["livenessProbe"]
        assert alive["periodSeconds"] * alive["failureThreshold"] > whole  # it is not killed in the middle
    service = COMPOSE["services"]["gateway-1"]
    assert (
        int(service["stop_grace_period"].removesuffix("s"))
        >= settings_of("compose").drain_seconds + REQUEST_SECONDS + 5
    )


def test_a_start_may_take_as_long_as_the_tables_are_waited_for() -> None:
    starting = the_gateway(PODS[SHARED])["startupProbe"]
    assert starting["periodSeconds"] * starting["failureThreshold"] > 300


def test_a_gateway_with_as_many_viewers_as_it_takes_stays_below_its_limit() -> None:
    """In MiB, by docs/operating.md: the process, logs, viewers, and four bodies at a time, seven times their size."""
    sizes = {"Mi": 1, "Gi": 1024}
    for name, pod in PODS.items():
        of = settings_of(name)
        most = 80 + of.memory_mib + of.streams_per_process * 170 / 1024 + 4 * 7 * of.max_body_mib
        limit = the_gateway(pod)["resources"]["limits"]["memory"]
        assert most <= int(limit[:-2]) * sizes[limit[-2:]]


# -- what nobody else sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_nothing_that_it_need_not(name: str) -> None:
    pod = PODS[name]
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == [
        f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    ]
    for container in pod["containers"] + pod.get("initContainers", []):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} == container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}  # noqa: S108


def test_containers_of_compose_may_do_nothing_that_they_need_not() -> None:
    assert COMPOSE["services"].keys() == {"gateway-1", "gateway-2", "nginx", "redis", "postgres"}
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        of_the_image = name.startswith("gateway-")  # which has a user and a health check of its own
        assert of_the_image or service["user"] == name
        assert of_the_image or service["healthcheck"]["test"]
    assert "\nHEALTHCHECK " in DOCKERFILE


def test_what_selects_the_pods_selects_them() -> None:
    labels = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in DEPLOYMENTS}
    selectors = {
        (each["kind"], each["metadata"]["name"]): each["spec"].get("selector") or each["spec"]["podSelector"]
        for each in ALL
        if each["kind"] in {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    }
    assert len(selectors) == 6
    for (_, name), selector in selectors.items():
        assert selector.get("matchLabels", selector) == labels[name]


def test_the_kustomization_has_all_but_the_other_way_to_deploy() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert set(kustomization["resources"]) == MANIFESTS.keys() - {"sidecar.yaml"}
    assert [image["name"] for image in kustomization["images"]] == [the_gateway(PODS[SHARED])["image"]]


def test_containers_are_started_with_options_that_the_command_has() -> None:
    assert re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE) == ['["codegen-api"]']
    for container in [*map(the_gateway, PODS.values()), COMPOSE["services"]["gateway-1"]]:
        assert "entrypoint" not in container
        _parser().parse_args([*container.get("args", []), *container.get("command", [])])


def test_nginx_and_the_gateways_know_each_others_addresses() -> None:
    networks = {name: service["networks"] for name, service in COMPOSE["services"].items()}
    gateways = [networks[name]["front"]["ipv4_address"] for name in ("gateway-1", "gateway-2")]
    assert re.findall(r"server ([\d.]+):8000 ", NGINX) == gateways
    assert ENVIRONMENTS["compose"]["CODEGEN_TRUSTED_PROXIES"] == networks["nginx"]["front"]["ipv4_address"]
    (listening,) = re.findall(r"listen (\d+);", NGINX)
    assert all(port.endswith(f":{listening}") for port in COMPOSE["services"]["nginx"]["ports"])
    assert f":{listening}/livez" in COMPOSE["services"]["nginx"]["healthcheck"]["test"][-1]


def test_nginx_waits_for_as_long_and_takes_as_much_as_the_gateway() -> None:
    def number(directive: str) -> int:
        (found,) = re.findall(rf"{directive} (\d+)[a-z]*;", NGINX)
        return int(found)

    defaults = settings_of("compose")
    assert number("proxy_read_timeout") > 2 * defaults.stream_heartbeat_seconds
    assert number("proxy_read_timeout") > defaults.upstream_read_timeout_seconds
    assert number("client_max_body_size") > defaults.max_body_mib
    assert "keepalive_timeout" not in NGINX  # by default 60 s, for connections to the gateway as well
    assert defaults.keep_alive_seconds > 60


def test_the_image_has_everything_that_a_setting_may_need() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {
        re.split(r"[\[<>=]", requirement)[0].lower()
        for extra, requirements in extras.items()
        if extra not in {"bench", "dev", "meaning", "terminal"}
        for requirement in requirements
    }
    assert "asyncpg" in wanted
    locked = set(re.findall(r"^([\w.-]+)(?:\[.*\])?==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert wanted <= locked
    assert "--requirement requirements.lock" in DOCKERFILE
