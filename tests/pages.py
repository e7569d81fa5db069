"""README.md and the pages of docs/: their code blocks and their commands."""

import re

from members import ROOT

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TEXT = "\n".join(PAGES.values())


def blocks(language: str, text: str = TEXT) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command line of a shell block, and every `gen-jax` command in running text, without comments."""
    shell = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    inline = [line for line in re.findall(r"`(gen-jax [^`]+)`", TEXT) if "=" in line]
    lines = [re.split(r"\s{2,}#", line)[0].strip() for line in shell + inline]
    return sorted({re.sub(r"\s+", " ", line) for line in lines if line})


def gen_jax_commands() -> list[str]:
    """Those of `gen-jax`, from that word on."""
    return sorted({line[line.index("gen-jax ") :] for line in commands() if re.match(r"(\w+=\S+ )?gen-jax ", line)})
