import subprocess
import sys
from pathlib import Path

import primenet_lightning.figures


def test_drawing_needs_no_lightning_and_loads_matplotlib_when_it_draws():
    names = sorted(path.stem for path in Path(primenet_lightning.figures.__file__).parent.glob("[!_]*.py"))
    assert "style" in names
    imports = "; ".join(f"import primenet_lightning.figures.{name}" for name in names)
    heavy = {"lightning", "matplotlib", "sklearn", "torchmetrics"}
    code = f"import sys; {imports}; print(*({heavy} & sys.modules.keys()))"
    root = Path(primenet_lightning.__file__).parents[1]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert ended.stdout.strip() == ""
