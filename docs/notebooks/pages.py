"""A hook of mkdocs: the notebooks of this folder as pages of the site, with the outputs that they keep."""

import base64
import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each notebook, and its pictures."""
    from mkdocs.structure.files import File

    for path in sorted(HERE.glob("*.ipynb")):
        text, pictures = page(json.loads(path.read_text()), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, png in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=png))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to a notebook lead to its page; GitHub shows the notebook itself."""
    return re.sub(r"\]\((notebooks/\w+)\.ipynb\)", r"](\1.md)", markdown)


def page(notebook: dict, name: str) -> tuple[str, dict[str, bytes]]:
    """Markdown, and PNG files by the names that it calls them."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for i, output in enumerate(cell["outputs"]):
            data = output.get("data", {})
            if png := data.get("image/png"):
                file = f"{name}-{cell['id']}-{i}.png"
                pictures[file] = base64.b64decode("".join(png))
                parts.append(f"![{cell['id']}]({file})")
            else:
                text = "".join(output.get("text") or data["text/plain"])
                parts.append(f"```text\n{text.rstrip()}\n```")
    parts.insert(1, f"[Download the notebook]({name}.ipynb)")
    return "\n\n".join(parts) + "\n", pictures
