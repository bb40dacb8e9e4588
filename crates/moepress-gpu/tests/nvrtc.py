"""Compiles CUDA C++ files to machine code with NVRTC from the PyPI wheels; no GPU, no driver, no toolkit.

nvrtc.py FOLDER: every FOLDER/*.ARCH.cu, for instance few.sm_90.cu. Prints one line a file; exit status 1 when one does
not compile, 77 when the wheels are not there.
"""

import ctypes
import pathlib
import sys

try:
    import nvidia

    site = pathlib.Path(list(nvidia.__path__)[0])
    nvrtc = ctypes.CDLL(str(site / "cuda_nvrtc/lib/libnvrtc.so.12"))
    includes = [site / "cuda_runtime/include", site / "cuda_cccl/include"]
except (ImportError, OSError) as error:
    print(f"no NVRTC: {error}")
    sys.exit(77)


def text(program, size, get):
    length = ctypes.c_size_t()
    size(program, ctypes.byref(length))
    buffer = ctypes.create_string_buffer(length.value)
    get(program, buffer)
    return buffer.value.decode(), length.value


def compile_file(path):
    arch = path.suffixes[-2][1:]
    program = ctypes.c_void_p()
    code = path.read_bytes()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code, b"kernel.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={arch}".encode()] + [b"--include-path=" + bytes(i) for i in includes]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log, _ = text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
    if failed:
        print(f"{path.name}: does not compile\n{log}")
        return False
    _, size = text(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    print(f"{path.name}: {size} bytes of machine code")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return size > 0


files = sorted(pathlib.Path(sys.argv[1]).glob("*.cu"))
sys.exit(0 if files and all([compile_file(path) for path in files]) else 1)
