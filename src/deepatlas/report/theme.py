"""The look of the page: one document skeleton and one style sheet, light, dark and on paper."""

from __future__ import annotations

# The policy lets a browser load nothing but what stands in the file itself.
DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="generator" content="deepatlas {version}">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
<a class="skip" href="#summary">Skip to the summary</a>
<header class="top">
<div class="wide">
<p class="brand">deepatlas report</p>
<h1>{heading}</h1>
<p class="lead">{lead}</p>
</div>
</header>
<nav aria-label="Sections"><div class="wide"><ul>{links}</ul></div></nav>
<main class="wide">
{sections}
</main>
<footer class="wide"><p>{footer}</p></footer>
</body>
</html>
"""

CSS = """
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #18212f; --soft: #566173; --line: #dde2e9;
  --accent: #0b6e74; --accent-soft: #d8eeee; --film: #0c0f14; --good: #1a7f5a; --bad: #b42335;
  --note: #fff7e0; --note-line: #e6c766;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151b; --card: #181d25; --ink: #e6eaf0; --soft: #9aa6b6; --line: #2b323d;
    --accent: #5fc6c9; --accent-soft: #17383b; --film: #0c0f14; --good: #5ccb9b; --bad: #ff8390;
    --note: #2b2615; --note-line: #6f5f25;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 4rem; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%;
}
.wide { max-width: 1120px; margin: 0 auto; padding: 0 1.5rem; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: .5rem 1rem; z-index: 9; }
a { color: var(--accent); text-underline-offset: .15em; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px;
}
.top { padding: 2.6rem 0 1.4rem; }
.brand { margin: 0; color: var(--accent); font-weight: 600; letter-spacing: .02em; }
h1 { margin: .1rem 0 .3rem; font-size: 2.1rem; line-height: 1.2; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
.lead { margin: 0; color: var(--soft); font-size: 1.05rem; max-width: 62ch; }
nav { position: sticky; top: 0; z-index: 5; background: var(--page);
  border-bottom: 1px solid var(--line); }
nav ul { list-style: none; margin: 0; padding: 0; display: flex; gap: .3rem 1.5rem;
  overflow-x: auto; }
nav a { display: block; padding: .75rem 0; color: var(--soft); text-decoration: none;
  white-space: nowrap; font-size: .94rem; }
nav a:hover { color: var(--accent); }
section { margin: 2.6rem 0 3.4rem; }
h2 { font-size: 1.45rem; letter-spacing: -.01em; margin: 0 0 .4rem; }
h3 { font-size: 1.08rem; margin: 2rem 0 .5rem; }
h4 { font-size: .98rem; margin: 1.4rem 0 .4rem; }
section > p, .about { max-width: 75ch; color: var(--soft); margin: 0 0 1.1rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 1px;
  margin: 1rem 0 1.6rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; overflow: hidden; }
.facts div { box-shadow: 0 0 0 1px var(--line); padding: .8rem 1rem; }
.facts dt { color: var(--soft); font-size: .82rem; }
.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 1.1rem 1.25rem 1rem; }
.card h4 { margin: 0; color: var(--soft); font-weight: 500; font-size: .93rem; }
.value { margin: .1rem 0 .2rem; font-size: 2.3rem; font-weight: 650; line-height: 1.15;
  letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.value small { font-size: 1.05rem; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.detail { margin: 0; color: var(--soft); font-size: .88rem; font-variant-numeric: tabular-nums; }
.bar { position: relative; height: 8px; margin: .55rem 0 .7rem; border-radius: 4px;
  background: var(--accent-soft); }
.bar i { position: absolute; top: 0; height: 8px; min-width: 4px; border-radius: 4px;
  background: var(--accent); }
.bar b { position: absolute; top: -2px; width: 2px; height: 12px; background: var(--soft); }
figure { margin: 1.1rem 0 1.8rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .55rem; max-width: 90ch; }
figcaption strong { color: var(--ink); }
.film { background: var(--film); border-radius: 12px; overflow: hidden; display: block;
  padding: .35rem; width: fit-content; max-width: 100%; }
.wide-film { width: auto; }
.wide-film img { margin: 0 auto; }
.film img { display: block; max-width: 100%; height: auto; }
.paper { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 1rem 1rem .6rem; overflow-x: auto; }
.paper svg { display: block; width: 100%; height: auto; min-width: 420px; color: var(--ink); }
.paper svg text {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr));
  gap: 0 1.2rem; }
.flow { display: flex; flex-wrap: wrap; gap: 0 1.2rem; }
.flow figure { flex: 1 1 300px; max-width: fit-content; }
.flow .wide-figure { flex-basis: 100%; max-width: 100%; }
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0;
  margin: .4rem 0 .8rem; font-size: .9rem; }
.keys i { display: inline-block; width: .95em; height: .95em; border-radius: 3px;
  margin-right: .45em;
  vertical-align: -.1em; border: 1px solid rgba(0, 0, 0, .25); }
.keys .line { width: 1.9em; height: 0; border: 0; border-top: 3px solid var(--ink);
  border-radius: 0;
  vertical-align: .25em; }
.keys .dash { border-top-style: dashed; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; margin: .6rem 0 1.4rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .8rem .75rem .3rem; font-weight: 600; }
th, td { padding: .48rem .75rem; text-align: right; border-top: 1px solid var(--line);
  white-space: nowrap; }
thead th { border-top: 0; color: var(--soft); font-weight: 500; vertical-align: bottom; }
th:first-child, td:first-child, .text { text-align: left; }
tbody th { font-weight: 500; white-space: normal; min-width: 9rem; }
tbody tr:hover { background: color-mix(in srgb, var(--accent-soft) 40%, transparent); }
.note { background: var(--note); border-left: 4px solid var(--note-line);
  border-radius: 0 8px 8px 0;
  padding: .8rem 1.1rem; margin: .8rem 0 1.2rem; max-width: 80ch; }
.note p { margin: 0; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: .88em; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .9rem 1.1rem; overflow-x: auto; line-height: 1.45; }
details { margin: .8rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .2rem 0; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.cite li { margin: .5rem 0; max-width: 85ch; }
footer { color: var(--soft); font-size: .88rem; border-top: 1px solid var(--line);
  padding-top: 1rem; padding-bottom: 3rem; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --accent: #0b5e63;
    --accent-soft: #dcecec; --note: #fff; --good: #145f43; --bad: #8e1a29; }
  body { font-size: 10.5pt; }
  .wide { max-width: none; padding: 0; }
  nav, .skip { display: none; }
  .top { padding-top: 0; }
  .film, .bar, .bar i, .keys i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .card, figure, tr, .note, .facts { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
  .scroll { overflow: visible; }
  .flow:has(.wide-figure) { display: block; }
  details::details-content { content-visibility: visible; block-size: auto; }
  pre { white-space: pre-wrap; }
}
"""
