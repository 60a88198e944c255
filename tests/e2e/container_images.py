"""An image that keeps MHub's contract, made without a registry, and an engine that can run it.

The image is a static busybox and a script. What it would compute is prepared: for each series that it
knows it holds a file made by highdicom, and it finds out by the input's own bytes which series it was
given. The script holds the node to the contract: the arguments, the flat folder that cannot be
written, no network, nothing on standard input. ``--workflow`` says what else it does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

REFERENCE = "localhost/segnode-test/painter:1"
SLEEPING = "86399"  # seconds that no other program of this machine sleeps

_APPLETS = ("cat", "cp", "dd", "find", "grep", "head", "mkdir", "sleep", "sh", "touch", "tr", "wc")
_ENTRY = f"""#!/bin/sh
in=/app/data/input_data
out=/app/data/output_data
workflow="$2"
echo "arguments: $*"
case "$*" in
  "--workflow $workflow --print --non-interactive") ;;
  *) echo "ERROR: other arguments"; exit 64 ;;
esac
[ -n "$(head -c 1)" ] && {{ echo "ERROR: standard input is open"; exit 65; }}
touch $in/new 2>/dev/null && {{ echo "ERROR: the input can be written"; exit 66; }}
grep -q -v -E "lo:|Inter|face" /proc/net/dev && {{ echo "ERROR: there is a network"; exit 67; }}
[ "$(find $in -type f | wc -l)" = "$(find $in -name '*.dcm' | wc -l)" ] || exit 68
for known in /app/known/*; do
  uid="${{known##*/}}"
  tr '\\000' '\\n' <"$(find $in -type f | head -n 1)" | grep -q -F "$uid" && break
  uid=""
done
paint() {{ mkdir -p "$out/$uid" && cat "/app/known/$uid/made" >"$out/$uid/painter.seg.dcm"; }}
case "$workflow" in
  default) [ -n "$uid" ] && paint ;;
  silent) echo "ERROR: CUDA out of memory"; exit 0 ;;
  crash) echo "ERROR: no such file"; exit 3 ;;
  garbage) mkdir -p $out/x; dd if=/dev/zero of=$out/x/painter.seg.dcm bs=1000 count=9 2>/dev/null ;;
  empty) : >$out/painter.seg.dcm ;;
  foreign) for known in /app/known/*; do [ "${{known##*/}}" != "$uid" ] && uid="${{known##*/}}" && break; done; paint ;;
  hang) sleep {SLEEPING} & sleep {SLEEPING} ;;
  failing) paint; exit 1 ;;
  nifti) mkdir -p $out/x && cat "/app/known/$uid/labels" >$out/x/labels.nii.gz ;;
  roles) ls $in/case/*; [ "$(find $in/case/ct | wc -l)" = 13 ] && [ "$(find $in/case/pt | wc -l)" = 6 ] && paint ;;
  twice) paint; cp "$out/$uid/painter.seg.dcm" $out/other.seg.dcm ;;
  greedy) exec dd if=/dev/zero of=/dev/null bs=3000M count=9 ;;
esac
echo done
exit $([ "$workflow" = failing ] && echo 1 || echo 0)
"""


@dataclass(frozen=True)
class Machine:
    """An engine on this machine, ready to run."""

    engine: str

    def call(self, *arguments: object) -> str:
        done = subprocess.run(
            [self.engine, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def containers(self) -> list[str]:
        """All containers of nodes, running or not."""
        return self.call("ps", "--all", "--quiet", "--filter", "label=segnode.owner").split()

    def import_image(
        self, folder: Path, known: Mapping[str, Mapping[str, Path]], reference: str
    ) -> None:
        """Make an image that knows results of these series: ``made`` in DICOM, ``labels`` in NIfTI."""
        root = folder / "rootfs"
        (root / "bin").mkdir(parents=True)
        shutil.copyfile(_busybox(folder), root / "bin/busybox")
        (root / "bin/busybox").chmod(0o755)
        for applet in _APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        for name in ("app/data", "tmp", "proc", "dev", "etc"):
            (root / name).mkdir(parents=True)
        (root / "app/run").write_text(_ENTRY)
        (root / "app/run").chmod(0o755)
        for uid, results in known.items():
            (root / "app/known" / uid).mkdir(parents=True)
            for name, path in results.items():
                shutil.copyfile(path, root / "app/known" / uid / name)
        archive = folder / "rootfs.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(root, ".")
        self.call("import", "--change", 'ENTRYPOINT ["/app/run"]', archive, reference)


def machine(folder: Path, set_variable: Callable[[str, str], None]) -> Machine:
    """The engine that SEGNODE_CONTAINER_ENGINE names; else podman, with images of its own; or docker.

    Args:
        set_variable: Sets a variable of this process's environment.
    """
    if named := os.environ.get("SEGNODE_CONTAINER_ENGINE"):
        return Machine(named)
    engine = next((name for name in ("podman", "docker") if shutil.which(name)), None)
    if engine is None:
        pytest.skip("neither podman nor docker is installed")
    set_variable("SEGNODE_CONTAINER_ENGINE", engine)
    if engine == "podman" and os.geteuid() == 0:
        # limits and control groups of a machine that is a container itself
        store, settings = folder / "storage.conf", folder / "containers.conf"
        store.write_text(
            f'[storage]\ndriver = "overlay"\nrunroot = "{folder}/run"\ngraphroot = "{folder}/store"\n'
        )
        runtime = 'runtime = "runc"\n' if shutil.which("runc") else ""
        settings.write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=2048:2048"]\n'
            f'[engine]\n{runtime}cgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        set_variable("CONTAINERS_STORAGE_CONF", str(store))
        set_variable("CONTAINERS_CONF", str(settings))
    return Machine(engine)


def _busybox(folder: Path) -> Path:
    """A busybox that needs no libraries: this machine's, or Debian's package."""
    here = Path("/bin/busybox")
    if here.exists() and "statically" in _kind(here):
        return here
    subprocess.run(["apt-get", "download", "busybox-static"], cwd=folder, check=True, timeout=120)
    package = next(folder.glob("busybox-static*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, folder / "busybox"], check=True)
    return next(path for path in folder.glob("busybox/**/bin/busybox"))


def _kind(path: Path) -> str:
    if shutil.which("file") is None:
        return ""
    return subprocess.run(["file", "-L", path], capture_output=True, text=True, check=True).stdout
