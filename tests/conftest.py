"""Set before jax is imported: 8 CPU devices, a compilation cache, and shapes checked at every call in gen_jax."""

import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # most of a test's time is compiling
os.environ.setdefault("GEN_JAX_CACHE", str(ROOT / ".cache" / "data"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = ["--xla_force_host_platform_device_count=8", "--xla_cpu_parallel_codegen_split_count=1"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones have one kind of emitters
        flags.append("--xla_cpu_use_fusion_emitters=false")  # the others compile three times as long
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

install_import_hook("gen_jax", "beartype.beartype")
importlib.import_module("gen_jax.cli").give_threads()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: $GEN_JAX_TEST_DATA, else `../shared/data` beside the repository."""
    path = Path(os.environ.get("GEN_JAX_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}: set GEN_JAX_TEST_DATA to a folder with tfds/ and tfds_manual/")
    return path


@pytest.fixture
def workdir(tmp_path: Path) -> str:
    """A run directory that does not exist yet."""
    return str(tmp_path / "run")


@pytest.fixture
def written(monkeypatch):
    """What grids write around images, which is not drawn: text -> its (x, y)s, in order."""
    from PIL import ImageDraw

    found: dict[str, list[tuple[float, float]]] = {}
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, xy, text, **more: found.setdefault(text, []).append(xy)
    )
    return found


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn."""
    from gen_jax.runs import plots

    found, pixels = [], plots.pixels
    monkeypatch.setattr(plots, "pixels", lambda figure: found.append(figure) or pixels(figure))
    return found
