"""Checks of what is installed: versions, programs, the base model."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrouter.config import ModelConfig
from fedrouter.deploy.doctor.finding import Finding
from fedrouter.deploy.files import VERSIONS, versions

LEAST_PYTHON = (3, 11)


def check_versions(folder: Path) -> Iterator[Finding]:
    """All machines have the versions with which the deployment was made."""
    wanted = json.loads((folder / VERSIONS).read_bytes())
    for package, here in versions().items():
        made = str(wanted.get(package))
        remedy = "" if here == made else f"pip install {package}=={made}, or {here} everywhere"
        told = "" if here == made else f", but the deployment was made with {made}"
        yield Finding("versions", f"{package} {here}{told}", remedy)
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("versions", f"Python {python}")


def check_programs(programs: Sequence[str]) -> Iterator[Finding]:
    """The programs that the start scripts call are on the PATH."""
    for program in programs:
        path = shutil.which(program)
        yield (
            Finding("programs", f"{program} is {path}")
            if path
            else Finding("programs", f"{program} is not on the PATH", _remedy(program))
        )


def model_fingerprint(name: str) -> str:
    """The fingerprint of a base model, apart from what a run's configuration sets.

    Raises:
        ModelError: it cannot be loaded.
    """
    from fedrouter.model.base_model import BaseModel  # imports torch

    return BaseModel.load(ModelConfig(name=name)).fingerprint


def _remedy(program: str) -> str:
    if program == "nginx":
        return "install nginx, or add /usr/sbin to the PATH"
    return "pip install 'fedrouter[flower]', and put its bin folder on the PATH"
