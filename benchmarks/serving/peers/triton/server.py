"""Triton with a Python backend: writes its model repository and becomes `tritonserver`.

`server.py PORT INSTANCES`, in an empty working directory. The wheel of pytriton has the program;
pytriton itself is not used. The backend needs the stub of this Python version in its folder.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

CONFIG = """\
backend: "python"
max_batch_size: 64
dynamic_batching { }
input [ { name: "image", data_type: TYPE_UINT8, dims: [ 28, 28 ] } ]
output [ { name: "probabilities", data_type: TYPE_FP32, dims: [ 10 ] } ]
instance_group [ { kind: KIND_CPU, count: %d } ]
"""

port, instances = sys.argv[1:]
libraries = Path(sysconfig.get_path("purelib"))
triton = libraries / "pytriton" / "tritonserver"
stub = triton / "python_backend_stubs" / sysconfig.get_python_version()
if not stub.is_dir():
    sys.exit(f"Triton has no stub for Python {sysconfig.get_python_version()}.")

version = Path("repository/mnist-mlp/1")
version.mkdir(parents=True)
shutil.copy(Path(__file__).with_name("model.py"), version)
(version.parent / "config.pbtxt").write_text(CONFIG % int(instances))
backend = shutil.copytree(triton / "backends" / "python", "backends/python")
shutil.copy(stub / "triton_python_backend_stub", backend)

folders = [sysconfig.get_config_var("LIBDIR"), str(libraries / "nvidia_pytriton.libs")]
# The stub takes the environment of the first `python3` in PATH, and needs its numpy.
path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
variables = {"LD_LIBRARY_PATH": os.pathsep.join(folders), "PATH": path}
arguments = [
    "--model-repository=repository",
    "--backend-directory=backends",
    "--http-address=127.0.0.1",
    f"--http-port={port}",
    "--http-thread-count=2",
    "--allow-grpc=false",
    "--allow-metrics=false",
    "--log-info=false",
]
program = str(triton / "bin" / "tritonserver")
os.execve(program, [program, *arguments], {**os.environ, **variables})
