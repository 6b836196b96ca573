"""Build the wheel and the sdist, and try each as a user would; run by `make dist`.

Both are built in isolation, checked (metadata, and that they hold what the package needs), and
installed into an empty environment, where they run the demo. Arguments are passed to pip, for
instance an index with CPU builds of torch.

    python scripts/build_dist.py [--no-demo] [PIP OPTION ...]
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
NEEDED = ("fedrouter/py.typed", "fedrouter/assets/demo.toml", "fedrouter/assets/nano/config.json")


def call(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a program; a failure ends this one."""
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def build() -> tuple[Path, Path]:
    """Build both into dist/; returns the wheel and the sdist."""
    for folder in ("dist", "build/lib", "build/bdist.linux-x86_64"):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    call(sys.executable, "-m", "build")
    [wheel] = (ROOT / "dist").glob("*.whl")
    [sdist] = (ROOT / "dist").glob("*.tar.gz")
    call(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Both hold what the package needs, and the wheel nothing but the package."""
    with zipfile.ZipFile(wheel) as file:
        in_wheel = set(file.namelist())
    with tarfile.open(sdist) as file:
        in_sdist = {name.partition("/")[2] for name in file.getnames()}
    for name in NEEDED:
        assert name in in_wheel, f"{wheel.name} lacks {name}"
        assert name in in_sdist, f"{sdist.name} lacks {name}"
    tops = {name.partition("/")[0] for name in in_wheel}
    assert tops == {"fedrouter", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}, tops


def try_out(distribution: Path, options: list[str], demo: bool) -> None:
    """Install into an empty environment outside the checkout, and run the demo."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        binaries = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        pip = (binaries / "python", "-m", "pip", "install", "-qq", *options)
        call(*pip, "-c", ROOT / "constraints.txt", distribution, cwd=folder)
        call(binaries / "fedrouter", "--version", cwd=folder)
        if demo:
            call(binaries / "fedrouter", "demo", "-o", "demo", cwd=folder)


def main(arguments: list[str]) -> None:
    """Build, check and try both."""
    options = [argument for argument in arguments if argument != "--no-demo"]
    wheel, sdist = build()
    check_contents(wheel, sdist)
    for distribution in (wheel, sdist):
        try_out(distribution, options, demo="--no-demo" not in arguments)
    print(f"{wheel.relative_to(ROOT)} and {sdist.relative_to(ROOT)} install and run")


if __name__ == "__main__":
    main(sys.argv[1:])
