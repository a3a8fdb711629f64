"""The files of the site, under the paths that they have in the repository, so that links hold.

MkDocs takes pages from one folder only; README.md and the pages of other folders are added here.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = (
    "*.md",
    "LICENSE",
    "docs/**/*.md",
    "docs/**/*.json",
    "docs/**/*.png",
    "docs/site.css",
    "deployments/README.md",
    "deployments/*/*.yaml",
    "docker/README.md",
    "docker/Dockerfile",
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Every file to show, from the root; `files` has those of the theme, too."""
    theirs = [file for file in files if not _is_ours(file)]
    paths = sorted({path for pattern in SHOWN for path in ROOT.glob(pattern)})
    return Files([*theirs, *(_file(path, config) for path in paths)])


def _is_ours(file: File) -> bool:
    return file.abs_src_path is not None and Path(file.abs_src_path).is_relative_to(ROOT / "docs")


def _file(path: Path, config: MkDocsConfig) -> File:
    name = path.relative_to(ROOT).as_posix()
    return File(name, str(ROOT), config.site_dir, config.use_directory_urls)
