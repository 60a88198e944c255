"""The image and the compose file of docker/, built and run by podman.

Nothing comes from an image registry: the base images are made here of Debian packages. Images,
networks and containers are in a folder of their own and go away with it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import dcmread

from tests.support.peers import free_port, storescu
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ("podman", "runc", "debootstrap")
CERTIFICATES = "/etc/ssl/certs"
BASE, ORTHANC, NODE, TORCH = (f"localhost/{name}" for name in ("base", "orthanc", "node", "torch"))
UID = 10001
GRACE_S = 40

ORTHANC_DOCKERFILE = f"""
FROM {BASE}
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive \\
    apt-get install -q -y --no-install-recommends orthanc orthanc-python
USER orthanc
CMD ["Orthanc", "/etc/orthanc/orthanc.json"]
"""
# limits: root of a container that has not all of root's rights cannot raise them
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=2048:2048"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{folder}/networks"
"""
STORAGE_CONF = """
[storage]
driver = "overlay"
runroot = "{folder}/run"
graphroot = "{folder}/storage"
"""
PROCESSES = """
import json, os
rows = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        state, parent = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[:2]
        command = open(f"/proc/{pid}/cmdline").read().replace("\\0", " ")
        rows[pid] = [state, int(parent), os.stat(f"/proc/{pid}").st_uid, command]
    except OSError:
        continue
del rows[str(os.getpid())]
print(json.dumps(rows))
"""


@dataclass(kw_only=True)
class Podman:
    """Podman with a storage of its own."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            timeout=1800,
        )

    def __call__(self, *arguments: str) -> str:
        """Run a command that must succeed; what it says on stdout."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"podman {arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def build(self, tag: str, context: Path, *options: str) -> None:
        """Build with the network of this machine, and what it trusts."""
        trusted = ("-v", f"{CERTIFICATES}:{CERTIFICATES}:ro") if Path(CERTIFICATES).is_dir() else ()
        how = ("--isolation", "chroot", "--network", "host", "--pull=never", "--format", "docker")
        self("build", *how, *trusted, *options, "-t", tag, str(context))

    def processes(self, container: str) -> dict[int, tuple[str, int, int, str]]:
        """State, parent, user and command of each process in a container."""
        rows = json.loads(self("exec", container, "python", "-c", PROCESSES))
        return {int(pid): tuple(row) for pid, row in rows.items()}

    def remove_everything(self) -> None:
        self.run("rm", "--all", "--force", "--time", "0")
        self.run("network", "prune", "--force")
        for line in Path("/proc/self/mounts").read_text().splitlines():
            if line.split()[1].startswith(str(self.folder)):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(kw_only=True)
class Composed:
    """The services of docker/compose.yaml, on free ports of this machine."""

    podman: Podman
    program: Path
    config: Path
    dicom_port: int = field(default_factory=free_port)
    orthanc_port: int = field(default_factory=free_port)
    node_port: int = field(default_factory=free_port)

    def __call__(self, *arguments: str, passwords: bool = True) -> subprocess.CompletedProcess[str]:
        variables = {
            "ORTHANC_IMAGE": ORTHANC,
            "SEGNODE_IMAGE": NODE,
            "SEGNODE_CONFIG": str(self.config),
            "ORTHANC_DICOM": f"127.0.0.1:{self.dicom_port}",
            "ORTHANC_HTTP": f"127.0.0.1:{self.orthanc_port}",
            "SEGNODE_DICOM": f"127.0.0.1:{free_port()}",
            "SEGNODE_HTTP": f"127.0.0.1:{self.node_port}",
        }
        if passwords:
            variables |= {"SEGNODE_PASSWORD": "of the node", "ORTHANC_PASSWORD": "of Orthanc"}
        return subprocess.run(
            [self.program, "--in-pod=false", "-p", "test", "-f", "compose.yaml", *arguments],
            cwd=REPOSITORY / "docker",
            capture_output=True,
            text=True,
            check=False,
            env={**self.podman.environment, **variables},
            timeout=300,
        )

    def up(self) -> None:
        done = self("up", "-d", "--no-build")
        assert done.returncode == 0, done.stdout + done.stderr
        try:
            wait_for("the node", lambda: self.api("/series"), 120)
            wait_for("Orthanc", lambda: self.orthanc("/system"), 120)
        except AssertionError as error:
            logs = [self.podman.run("logs", f"test_{name}_1") for name in ("segnode", "orthanc")]
            raise AssertionError(f"{error}: {''.join(log.stderr for log in logs)}") from None

    def api(self, path: str) -> Any:
        """The node's API, through its published port."""
        return ask(f"http://127.0.0.1:{self.node_port}/api/v1{path}", "of the node")

    def orthanc(self, path: str, body: object = None) -> Any:
        """Orthanc's REST API, through its published port."""
        return ask(f"http://127.0.0.1:{self.orthanc_port}{path}", "of Orthanc", body)

    def send(self, phantom: Phantom, folder: Path) -> None:
        paths = phantom.write(folder / phantom.series)
        assert storescu(self.dicom_port, "ORTHANC", *paths, options=("-aet", "CT1")) == 0

    def segmentations_of(self, phantom: Phantom) -> list[bytes]:
        """The SEGs in the phantom's study, as Orthanc has them."""
        query = {"StudyInstanceUID": phantom.uid("study"), "Modality": "SEG"}
        found = self.orthanc("/tools/find", {"Level": "Series", "Query": query, "Expand": True})
        instances = [instance for series in found for instance in series["Instances"]]
        return [self.orthanc(f"/instances/{instance}/file") for instance in instances]


def ask(url: str, password: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data)
    credentials = base64.b64encode(f"admin:{password}".encode()).decode()
    request.add_header("Authorization", f"Basic {credentials}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        content = answer.read()
    return json.loads(content) if content[:1] in (b"{", b"[") else content


def ct(name: str) -> Phantom:
    return Phantom(shape=(24, 40, 56), spacing_mm=(8.25, 5.5, 6.0), study=name, series=name)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """An engine that has one image: Debian with Python."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: apt install {' '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root")
    podman = Podman(folder=tmp_path_factory.mktemp("podman"))
    for name, text in (("storage", STORAGE_CONF), ("containers", CONTAINERS_CONF)):
        (podman.folder / f"{name}.conf").write_text(text.format(folder=podman.folder))
    try:
        root, archive = podman.folder / "root", podman.folder / "root.tar"
        packages = "--include=python3,python3-venv,ca-certificates"
        for command in (
            ["debootstrap", "--variant=minbase", packages, "bookworm", str(root)],
            ["tar", "-C", str(root), "-cf", str(archive), "."],
        ):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        podman("import", str(archive), BASE)
        shutil.rmtree(root)
        archive.unlink()
        yield podman
    finally:
        podman.remove_everything()


@pytest.fixture(scope="module")
def node_image(podman: Podman) -> str:
    """The node without torch: the model that comes with it needs none."""
    arguments = ("--build-arg", f"BASE={BASE}", "--build-arg", "EXTRAS=postgres")
    podman.build(NODE, REPOSITORY, "-f", str(REPOSITORY / "docker/Dockerfile"), *arguments)
    return NODE


@pytest.fixture(scope="module")
def composed(
    podman: Podman, node_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Composed]:
    folder = tmp_path_factory.mktemp("compose")
    (folder / "Dockerfile").write_text(ORTHANC_DOCKERFILE)
    podman.build(ORTHANC, folder)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = ["-m", "pip", "install", "--quiet", "podman-compose==1.6.0"]
    subprocess.run([folder / "venv/bin/python", *install], check=True)
    # a full disk under the tests is not what they are about
    config = yaml.safe_load((REPOSITORY / "docker/node.yaml").read_text())
    config["storage"] = {"reserve_gb": 0, "max_used_percent": 100}
    (folder / "node.yaml").write_text(yaml.safe_dump(config))
    composed = Composed(
        podman=podman, program=folder / "venv/bin/podman-compose", config=folder / "node.yaml"
    )
    try:
        composed.up()
        yield composed
    finally:
        composed("down", "-v")


def test_the_image_runs_as_nobody_and_holds_no_tools(podman: Podman, node_image: str) -> None:
    (image,) = json.loads(podman("image", "inspect", node_image))
    entry = ("run", "--rm", "--entrypoint", "sh", node_image, "-c")

    assert image["User"] == f"{UID}:{UID}"
    assert set(image["Config"]["Volumes"]) == {"/var/lib/segnode"}
    assert set(image["Config"]["ExposedPorts"]) == {"11112/tcp", "8080/tcp"}
    assert "/healthz" in str(image["Healthcheck"]["Test"])
    assert image["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert podman(*entry, "id -u") == str(UID)
    names = podman(*entry, "ls /opt/segnode/bin /opt/segnode/lib/python3*/site-packages").split()
    assert "segnode" in names
    assert not {"pip", "pytest", "mypy", "hatchling", "ruff", "tests"} & set(names)
    assert podman(*entry, "touch /opt/segnode/x /etc/segnode/x || echo refused").endswith("refused")


def test_the_image_runs_over_a_folder_and_writes_nowhere_else(
    podman: Podman, node_image: str, tmp_path: Path
) -> None:
    phantom = ct("folder")
    phantom.write(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    mounts = ("-v", f"{tmp_path}/in:/in:ro", "-v", f"{tmp_path}/out:/out")
    closed = ("--network", "none", "--read-only", "--cap-drop", "all", "--env", "SEGNODE_CONFIG=")

    podman(
        "run", "--rm", *closed, *mounts, node_image, "run", "/in", "/out", "--model", "ct_tissue"
    )

    (result,) = (tmp_path / "out" / phantom.uid("series")).iterdir()
    (referenced,) = dcmread(result).ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == phantom.uid("series")
    assert result.stat().st_uid == UID


def test_without_a_password_neither_image_nor_compose_start(
    podman: Podman, composed: Composed
) -> None:
    alone = podman.run("run", "--rm", NODE)
    refused = composed("config", passwords=False)

    assert alone.returncode == 2
    (sentence,) = [line for line in alone.stderr.splitlines() if "SEGNODE_PASSWORD" in line]
    assert sentence.startswith("web.auth.users.admin.password_env: ")
    assert refused.returncode != 0
    assert "PASSWORD" in refused.stderr


def test_what_is_sent_to_orthanc_comes_back_as_a_segmentation(
    composed: Composed, tmp_path: Path
) -> None:
    phantom = ct("first")

    composed.send(phantom, tmp_path)

    (file,) = wait_for("a SEG in Orthanc", lambda: composed.segmentations_of(phantom), 60)
    (referenced,) = dcmread(BytesIO(file)).ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == phantom.uid("series")
    assert len(referenced.ReferencedInstanceSequence) == len(phantom.datasets())


def test_processes_are_not_root_and_their_health_is_checked(composed: Composed) -> None:
    processes = composed.podman.processes("test_segnode_1")

    assert len(processes) >= 6  # the supervisor and five roles
    assert {uid for _, _, uid, _ in processes.values()} == {UID}
    for service in ("segnode", "orthanc"):
        composed.podman("healthcheck", "run", f"test_{service}_1")


def test_a_killed_worker_leaves_no_zombies(composed: Composed, tmp_path: Path) -> None:
    composed.send(ct("warm"), tmp_path)  # its worker has a child of its own from now on
    wait_for("a SEG in Orthanc", lambda: composed.segmentations_of(ct("warm")), 60)
    before = composed.podman.processes("test_segnode_1")
    ((child, worker),) = [
        (pid, parent) for pid, (_, parent, _, cmd) in before.items() if "node.infer.child" in cmd
    ]

    composed.podman("exec", "test_segnode_1", "python", "-c", f"import os; os.kill({worker}, 9)")

    def after() -> dict[int, tuple[str, int, int, str]]:
        return composed.podman.processes("test_segnode_1")

    wait_for("their end", lambda: not {child, worker} & set(after()), 20)
    wait_for("a new worker", lambda: len(after()) == len(before) - 1, 20)
    assert "Z" not in {state for state, *_ in after().values()}


def test_stop_and_start_keeps_the_spool(composed: Composed, tmp_path: Path) -> None:
    before, meanwhile = ct("before"), ct("meanwhile")
    composed.send(before, tmp_path)
    wait_for("a SEG in Orthanc", lambda: composed.segmentations_of(before), 60)

    started_s = time.monotonic()
    composed.podman("stop", "--time", str(GRACE_S), "test_segnode_1")
    took_s = time.monotonic() - started_s
    state = json.loads(composed.podman("inspect", "test_segnode_1"))[0]["State"]
    log = composed.podman.run("logs", "test_segnode_1").stderr
    composed.send(meanwhile, tmp_path)  # Orthanc tries until the node is back
    wait_for("a failed job", lambda: "Failure" in str(composed.orthanc("/jobs?expand")))
    composed.podman("start", "test_segnode_1")

    assert (state["Status"], state["ExitCode"]) == ("exited", 0)
    assert took_s < GRACE_S / 2
    assert log.rstrip().splitlines()[-1].endswith(" stopped")
    wait_for("a SEG in Orthanc", lambda: composed.segmentations_of(meanwhile), 90)
    assert_each_has_one_segmentation(composed, [before, meanwhile])


def test_new_containers_go_on_with_the_old_volumes(composed: Composed, tmp_path: Path) -> None:
    before, after = ct("before the change"), ct("after the change")
    composed.send(before, tmp_path)
    wait_for("a SEG in Orthanc", lambda: composed.segmentations_of(before), 60)

    assert composed("down").returncode == 0
    composed.up()
    composed.send(after, tmp_path)

    wait_for("a SEG in Orthanc", lambda: composed.segmentations_of(after), 60)
    assert_each_has_one_segmentation(composed, [before, after])


def assert_each_has_one_segmentation(composed: Composed, phantoms: list[Phantom]) -> None:
    """The node lists each series, and sent one SEG of each."""
    listed = {row["series_instance_uid"] for row in composed.api("/series")["items"]}
    for phantom in phantoms:
        assert phantom.uid("series") in listed
        assert len(composed.segmentations_of(phantom)) == 1

    def states() -> list[str]:
        return [row["state"] for row in composed.api("/deliveries")["items"]]

    wait_for("the deliveries", lambda: states() == ["sent"] * len(listed))
    assert composed.api("/jobs")["total"] == len(listed)


def test_a_node_that_just_started_stops_when_told(podman: Podman, node_image: str) -> None:
    options = ("--detach", "--no-healthcheck", "--env", "SEGNODE_PASSWORD=secret")
    container = podman("run", *options, node_image)
    number = json.loads(podman("inspect", container))[0]["State"]["Pid"]

    def hears_sigterm() -> bool:
        status = Path(f"/proc/{number}/status").read_text()
        return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> signal.SIGTERM - 1 & 1)

    wait_for("its first moment", hears_sigterm)
    started_s = time.monotonic()
    podman("stop", "--time", str(GRACE_S), container)

    assert time.monotonic() - started_s < GRACE_S / 2
    assert json.loads(podman("inspect", container))[0]["State"]["ExitCode"] == 143
    assert podman.run("logs", container).stderr == ""  # it was still importing
    podman("rm", container)


def test_by_default_torch_is_there_for_the_cpu(podman: Podman) -> None:
    default = "https://download.pytorch.org/whl/cpu"
    index = os.environ.get("SEGNODE_TEST_TORCH_INDEX", default)
    options = ["--build-arg", f"BASE={BASE}"]
    if index != default:
        options += ["--build-arg", f"TORCH_INDEX={index}"]
    if index.startswith("file://"):
        options += ["-v", f"{index.removeprefix('file://')}:{index.removeprefix('file://')}:ro"]
    else:
        try:
            urllib.request.urlopen(f"{index}/torch/", timeout=30).close()
        except OSError:
            pytest.skip(f"{index} does not answer: name another in SEGNODE_TEST_TORCH_INDEX")
    podman.build(TORCH, REPOSITORY, "-f", str(REPOSITORY / "docker/Dockerfile"), *options)

    program = "import monai, psycopg, torch; print(torch.version.cuda, torch.ones(3).sum().item())"
    run = ("run", "--rm", "--network", "none", "--entrypoint", "python", TORCH, "-c", program)

    assert podman(*run) == "None 3.0"
