"""The page that plays all clips of a run: one HTML file with nothing from outside.

`run` puts a run's page together, `cards` shows a clip, `timeline` works out who did what when and `drawing` draws it,
`overview` lists several runs. All are functions of records: equal manifests give equal pages. It works from a disk as
well as from a bucket, because every link is relative. Callers: `roles.collect` and `gallery`.
"""

from videogen_runner.page.files import ClipFiles, files_beside
from videogen_runner.page.overview import RunEntry, render_overview
from videogen_runner.page.run import render_page

__all__ = ["ClipFiles", "RunEntry", "files_beside", "render_overview", "render_page"]
