"""README.md and docs/ say nothing that does not work: commands parse, files, names, links and fields exist."""

import importlib
import itertools
import pkgutil
import re
import shlex

import pytest
import yaml
from members import ROOT
from pages import PAGES, README, TEXT, blocks, gen_jax_commands

import gen_jax.evaluators
from gen_jax import cli, config, data, errors
from gen_jax.data import sources
from gen_jax.sweeps.space import Space

WRITTEN_BY_THE_READER = {  # files whose whole text is on a page
    "gen_jax/models/sigmoid_belief.py",
    "gen_jax/models/independent_pixels.py",
    "gen_jax/evaluators/pixel_error.py",
    "gen_jax/data/sources/moons.py",
    "experiments/vae/digits_belief.py",
}


def override_flags() -> list[str]:
    """The `--config...` flags outside of a whole command, as in a table."""
    flags = {flag for cell in re.findall(r"`(--config\.[^`]+)`", TEXT) for flag in shlex.split(cell)}
    return sorted(flags - {"--config.key=value", "--config.total_steps", "--config.evals.error.type=pixel_error"})


def test_there_is_something_to_check():
    assert len(gen_jax_commands()) > 50
    assert len(override_flags()) > 20
    assert {line.split()[1] for line in gen_jax_commands()} == set(cli.COMMANDS)


@pytest.mark.parametrize("line", gen_jax_commands())
def test_a_command_parses(line):
    _, args, overrides = cli.parse(shlex.split(line)[1:])
    spec = getattr(args, "config", None)
    if spec and f"experiments/{spec}.py" not in WRITTEN_BY_THE_READER:
        config.load(spec, overrides)


@pytest.mark.parametrize("flag", override_flags())
def test_a_flag_fits_a_config(flag):
    metric = "--config.best.metric=val/elbo"  # without it a patience is refused
    resolved = config.load("vae/digits", [metric, flag])
    *path, last = flag.removeprefix("--config.").partition("=")[0].split(".")
    section = resolved
    for name in path:
        section = section[name] if isinstance(section, dict) else getattr(section, name)
    assert last in section if isinstance(section, dict) else hasattr(section, last)


def test_files_exist():
    named = set(re.findall(r"`((?:gen_jax|experiments|launch|tests)/[\w/.]+\.\w+)`", TEXT))
    named |= set(re.findall(r"\bbash (launch/\S+\.sh)", TEXT)) | set(re.findall(r'^--8<-- "(.+)"', TEXT, re.MULTILINE))
    named |= {"README.md", "mkdocs.yml"} | set(re.findall(r"\]\(([^)#]+)", README))
    assert len(named) > 40
    assert not {name for name in named - WRITTEN_BY_THE_READER if not (ROOT / name).exists()}


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as mkdocs makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", [name for name in PAGES if name != "README.md"])
def test_links_between_pages_lead_somewhere(page):
    for path, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", PAGES[page]):
        target = ROOT / "docs" / path if path else ROOT / "docs" / page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text()), f"{path}#{anchor}"


def test_the_site_has_every_page():
    def leaves(entry):
        return [entry] if isinstance(entry, str) else [leaf for part in entry for leaf in leaves(part)]

    def flat(nav):
        return [
            leaf
            for entry in nav
            for value in entry.values()
            for leaf in (flat(value) if isinstance(value, list) else [value])
        ]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    notebooks = [f"notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.ipynb")]
    assert sorted(flat(nav)) == sorted([*(path.name for path in (ROOT / "docs").glob("*.md")), *notebooks])


def first_cells(page: str, heading: str) -> set[str]:
    """The names in the first column of the table under `heading`."""
    table = PAGES[page].split(heading)[1].split("\n\n")[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_tables_of_names_are_complete():
    project = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("[project")[0]
    extras = set(re.findall(r"^(\w+) =", project, re.MULTILINE))
    assert first_cells("quickstart.md", "| extra |") == extras
    modules = {module.name for module in pkgutil.iter_modules(gen_jax.evaluators.__path__)}
    assert first_cells("evaluation.md", "| type |") == modules - {"evaluator"}
    assert first_cells("data.md", "| source |") == {module.name for module in pkgutil.iter_modules(sources.__path__)}
    assert first_cells("sweeps.md", "| `--search` |") == {"grid", "random", "tpe", "asha"}


def test_the_table_of_exit_codes_is_complete():
    table = PAGES["runs.md"].split("| exit code |")[1].split("\n\n")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+)", table, re.MULTILINE)}
    own = {error.code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "code")}
    assert documented == own | {0, cli.READER_GONE, 143}


def test_the_walk_is_five_files_and_each_calls_the_next():
    text = PAGES["architecture.md"].split("## From the command")[1].split("\n## ")[0]
    files = re.findall(r"^\d\. `(gen_jax/\S+\.py)`", text, re.MULTILINE)
    assert files[0] == "gen_jax/commands/train.py" and len(files) <= 5
    in_readme = README.split("## Read the code")[1].split("\n## ")[0]
    assert re.findall(r"`(gen_jax/\S+\.py)`", in_readme) == files
    for here, there in itertools.pairwise(files[:-1]):
        name = there.removesuffix(".py").replace("/", ".")
        parent, _, leaf = name.rpartition(".")
        assert re.search(
            rf"from ({re.escape(name)} import|{re.escape(parent)} import .*\b{leaf}\b)", (ROOT / here).read_text()
        )
    assert ".train_step" in (ROOT / files[-2]).read_text() and "def train_step" in (ROOT / files[-1]).read_text()


def test_fields_of_the_families_exist():
    sections = re.split(r"^## ", PAGES["families.md"], flags=re.MULTILINE)[1:]
    checked = 0
    for section in sections:
        models = [
            importlib.import_module(f"gen_jax.models.{name}") for name in re.findall(r"models/(\w+)\.py", section)
        ]
        fields = {name for model in models for name in model.Config.model_fields}
        named = {
            name
            for bullet in re.findall(r"^- (.*?):", section, re.MULTILINE)
            for name in re.findall(r"`(\w+)(?:=[^`]*)?`", bullet)
        }
        assert named <= fields, named - fields
        checked += len(named)
    assert checked > 30


def test_the_data_sections_are_valid():
    sections = "".join(block for block in blocks("python") if block.startswith("c.data"))
    lines = [line.removeprefix("c.data = ") for line in sections.splitlines()]
    found = {data.parse(eval(line, {"dict": dict})).source for line in lines}
    assert found == {
        "npz",
        "image_folder",
        "text_file",
        "tfds",
        "token_file",
        "pairs",
        "wav_folder",
        "unpaired",
        "shapes",
    }


def test_the_sweep_calls_what_a_space_has():
    (block,) = (block for block in blocks("python") if block.startswith("def sweep"))
    calls = set(re.findall(r"\bs\.(\w+)\(", block))
    assert calls and all(callable(getattr(Space, call)) for call in calls)
