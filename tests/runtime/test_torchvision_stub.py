"""The package is light to import, and mends torchvision when something else imports it."""

import subprocess
import sys

SCRIPT = """
import sys
import vibe_pipeline
assert "torch" not in sys.modules, "importing the package loads torch"
import torchvision
from diffusers import WanPipeline
import peft
print(torchvision.transforms.functional.__name__)
"""


def test_the_package_loads_no_torch_and_torchvision_can_be_imported_after_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torchvision.transforms.functional"
