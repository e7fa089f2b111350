"""The frame and the style of a report page; readable on a phone and a screen, by day and by night."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

CSS = """
:root { --paper: #fbfbfa; --ink: #1f2328; --quiet: #5c646d; --line: #d9dcdf; --shade: #f0f1f2; --warn: #b00020; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181b; --ink: #e4e6e8; --quiet: #9aa3ac; --line: #33383d; --shade: #1f2327; --warn: #ff8a8a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 56rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1.5rem; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.25rem; }
dl { margin: 0; max-width: 50rem; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
.note { max-width: 50rem; margin: 0 0 .75rem; }
.warning { color: var(--warn); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; color: var(--quiet); font-weight: 600; line-height: 1.25; }
td { white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
.aside { display: block; color: var(--quiet); font-size: .8rem; }
figure { margin: 0; }
.card { background: #fff; border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; overflow-x: auto; }
.card img { display: block; margin: 0 auto; max-width: 100%; height: auto; }
figcaption, .quiet { color: var(--quiet); margin-top: .5rem; max-width: 50rem; }
pre { background: var(--shade); border-radius: .5rem; padding: .75rem 1rem; font-size: .875rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 36rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; }
  .card { padding: .25rem; margin: 0 -1rem; border-radius: 0; }
}
"""
