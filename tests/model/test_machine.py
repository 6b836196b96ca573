"""The memory that a process may use, from files like those of the kernel."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedrouter.model.machine import control_group_limits, machine_bytes

GIB = 2**30


def limits(folder: Path, groups: str, files: dict[str, str]) -> list[int]:
    (folder / "cgroup").write_text(groups)
    for name, text in files.items():
        path = folder / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(control_group_limits(folder / "cgroup", folder / "mounted"))


def test_a_service_and_the_groups_that_hold_it(tmp_path: Path) -> None:
    files = {
        "system.slice/node.service/memory.max": f"{2 * GIB}\n",
        "system.slice/memory.max": "max\n",
        "other.slice/memory.max": "1\n",
    }
    assert limits(tmp_path, "0::/system.slice/node.service\n", files) == [2 * GIB]


def test_a_container_whose_own_group_is_the_root(tmp_path: Path) -> None:
    assert limits(tmp_path, "0::/\n", {"memory.max": f"{GIB}"}) == [GIB]
    # As docker shows it with version 1: the path is that outside of the container.
    groups = "4:memory:/docker/1234\n3:cpuset:/\n"
    files = {"memory/memory.limit_in_bytes": f"{GIB}", "memory.max": "max"}
    assert limits(tmp_path, groups, files) == [GIB]


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert list(control_group_limits(tmp_path / "none", tmp_path)) == []
    assert limits(tmp_path, "0::/\n", {"memory.max": "no number"}) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads the machine's memory from /proc")
def test_the_machine_has_no_more_than_the_kernel_says() -> None:
    [total] = [
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    ]
    assert 0 < machine_bytes() <= total


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts all data there")
def test_the_limit_of_a_process_counts() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29)); "
        "import runpy; print(runpy.run_path('fedrouter/model/machine.py')['machine_bytes']())"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True
    )
    assert int(found.stdout) == 2**29
