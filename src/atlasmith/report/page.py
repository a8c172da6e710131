"""The page of the report. To add a section: a function in `sections`, and a line in `SECTIONS`."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from atlasmith.config import Config
from atlasmith.io.files import write_text
from atlasmith.io.tables import read_cohort
from atlasmith.report.results import Results
from atlasmith.report.sections.overview import methods, overview, provenance
from atlasmith.report.sections.registration import registration
from atlasmith.report.sections.review import subjects_to_review
from atlasmith.report.sections.scores import distributions, scores
from atlasmith.report.sections.segmentation import segmentation
from atlasmith.report.sections.template import covariates, template
from atlasmith.report.sections.training import training

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2024;--soft:#5b6570;--line:#d9dee3;--card:#f4f6f8;
--link:#1f66b0}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e6e9ec;--soft:#9aa5b0;--line:#30363c;--card:#1e2226;
--link:#7ab8ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:0 16px 48px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{margin:24px 0 4px}h2{margin:40px 0 8px;scroll-margin-top:64px}h3{margin:20px 0 6px;font-size:1rem}
p{margin:4px 0 12px}a{color:var(--link)}.soft,figcaption,summary{color:var(--soft)}
nav{position:sticky;top:0;z-index:1;background:var(--paper);border-bottom:1px solid var(--line);padding:8px 0;
overflow-x:auto;white-space:nowrap}nav a{margin-right:16px;text-decoration:none}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:10px}
.card{background:var(--card);border-radius:8px;padding:10px 14px}.card b{display:block;font-size:1.5rem}
figure{margin:0;max-width:360px}.planes,.tiles{gap:8px;align-items:start;margin-bottom:8px}
.planes{display:flex;flex-wrap:wrap}.planes figure{min-width:100px;flex-basis:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(30%,150px),1fr))}
figure img{display:block;width:100%;height:auto;background:#000;
border-radius:4px}.crisp img{image-rendering:pixelated}
figcaption{font-size:.8rem;line-height:1.3;padding:3px 0}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:12px}
.charts svg{width:100%;height:auto}.charts text{font-family:inherit!important}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:3px 10px 3px 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.text{text-align:left}
.key{display:inline-block;width:.9em;height:.9em;border-radius:2px;margin:0 4px 0 12px;vertical-align:-1px}
details{margin:8px 0}
pre{overflow-x:auto;background:var(--card);padding:12px;border-radius:8px;font-size:.8rem}
"""

# Anchor, title and contents, in the order of the page.
SECTIONS: list[tuple[str, str, Callable[[Results], str]]] = [
    ("summary", "Summary", overview),
    ("template", "Template", template),
    ("covariates", "Covariates", covariates),
    ("registration", "Registration", registration),
    ("segmentation", "Segmentation", segmentation),
    ("training", "Training", training),
    ("distributions", "Distributions", distributions),
    ("scores", "Scores", scores),
    ("subjects", "Subjects to review", subjects_to_review),
    ("methods", "Methods", methods),
    ("provenance", "Provenance", provenance),
]


def write_report(config: Config) -> None:
    """Write the HTML report of an output folder: the same files give the same bytes.

    Only the cohort's table and grid must be there; a section whose files are missing is left out.

    Args:
        config: The run's config.

    Raises:
        AtlasmithError: If the cohort wasn't checked yet.
    """
    results = Results(config, read_cohort(config.layout.cohort))
    shown = [(anchor, title, body) for anchor, title, section in SECTIONS if (body := section(results))]
    name = escape(config.template.name)
    nav = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    parts = "".join(
        f'<section><h2 id="{anchor}">{title}</h2>{body}</section>\n' for anchor, title, body in shown
    )
    write_text(
        config.layout.report,
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name} · atlasmith</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{STYLE}</style></head><body>
<h1>{name}</h1><nav>{nav}</nav>
{parts}</body></html>
""",
    )
