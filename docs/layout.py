"""Lays the documentation site out as the repository is, so that one relative link serves both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

#: What the site has, beside the theme's own files.
PARTS = ("README.md", "LICENSE", "docs/**/*", "cookbook/*", "integrations/*/README.md", "integrations/*/LICENSE")
#: What makes the site, and what Python leaves behind.
LEFT_OUT = ("docs/layout.py", "docs/templates/", "__pycache__")


@event_priority(100)  # before the plugins, which look for notebooks among the files
def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    root = Path(config.config_file_path).parent
    for file in list(files.documentation_pages()) + list(files.media_files()):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted({path for part in PARTS for path in root.glob(part) if path.is_file()}):
        name = path.relative_to(root).as_posix()
        if not any(part in name for part in LEFT_OUT):
            files.append(File(name, str(root), config.site_dir, config.use_directory_urls))
    return files
