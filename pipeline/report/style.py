"""The style sheet of a report: light and dark, screen and print."""

NUM_COLOURS = 8
"""Number of series colours; the ninth series reuses the first."""

NARROW_PX = 640
"""Up to this width of the window, in pixels, the page has one column."""

# Light and dark series colours: neighbours differ in lightness as well as in hue, so that colour-blind readers can tell
# them apart, and all have a contrast of at least 3 against their background.
STYLE = (
    """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --surface: #ffffff; --ink: #171b21; --muted: #5c6674; --line: #e1e5ea; --hover: #f0f4fa;
  --accent: #2158c4; --warn: #8a5300; --warn-surface: #fff6e5; --bar: #8fb3f0;
  --c1: #2563c9; --c2: #d9700d; --c3: #0f8f7f; --c4: #b8338a; --c5: #76801a; --c6: #7652d1; --c7: #c43c31;
  --c8: #66717f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101318; --surface: #171b22; --ink: #e6e9ee; --muted: #98a3b3; --line: #2a313b; --hover: #1e2530;
    --accent: #82aeff; --warn: #ffc56b; --warn-surface: #2b2314; --bar: #3c68b3;
    --c1: #6fa3ff; --c2: #ff9f45; --c3: #3ecfb9; --c4: #f079c4; --c5: #bdc94f; --c6: #b298ff; --c7: #ff7d70;
    --c8: #98a3b3;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 4.2rem; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
header {
  position: sticky; top: 0; z-index: 3; display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1.4rem;
  padding: .7rem calc(max(0px, (100vw - 1240px) / 2) + 1.25rem); background: var(--surface);
  border-bottom: 1px solid var(--line);
}
header b { font-size: 1.05rem; letter-spacing: -.01em; }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; font-size: .88rem; }
nav a { color: var(--muted); text-decoration: none; }
nav a:hover, nav a:focus-visible { color: var(--accent); text-decoration: underline; }
main { max-width: 1240px; margin: 0 auto; padding: 1.6rem 1.25rem 4rem; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; letter-spacing: -.02em; }
h2 { margin: 2.6rem 0 .8rem; font-size: 1.22rem; letter-spacing: -.01em; }
p { margin: .4rem 0 1rem; max-width: 78ch; color: var(--muted); }
p.warning {
  max-width: none; padding: .6rem .9rem; color: var(--warn); background: var(--warn-surface);
  border-left: 3px solid currentColor; border-radius: 4px;
}
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 1rem 0; }
.facts div, figure, .table { background: var(--surface); border: 1px solid var(--line); border-radius: 10px; }
.facts div { padding: .75rem 1rem .7rem; }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.45rem; font-weight: 600; letter-spacing: -.02em; overflow-wrap: anywhere; }
.facts dd small { display: block; font-size: .8rem; font-weight: 400; letter-spacing: 0; }
small { color: var(--muted); }
td small { margin-left: .5rem; }
.table { width: fit-content; max-width: 100%; max-height: min(85vh, 60rem); overflow: auto; margin: 0 0 1.2rem; }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem; }
caption { padding: .7rem .75rem .5rem; text-align: left; font-weight: 600; }
th, td { max-width: 26rem; padding: .4rem .75rem; text-align: left; vertical-align: top;
  overflow-wrap: break-word; border-bottom: 1px solid var(--line); }
thead th {
  position: sticky; top: 0; z-index: 1; background: var(--surface); color: var(--muted); font-size: .8rem;
  font-weight: 600; vertical-align: bottom; white-space: nowrap;
}
tbody th { position: sticky; left: 0; background: var(--surface); font-weight: 500; }
td:last-child { max-width: 42rem; }
tbody tr:last-child > * { border-bottom: 0; }
tbody tr:hover > * { background-color: var(--hover); }
tr.total > * { font-weight: 600; border-top: 1px solid var(--muted); }
tr.total + tr.total > * { border-top: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.number small { display: inline-block; min-width: 6.2rem; text-align: left; font-weight: 400;
  font-size: .78rem; }
td.bar { background: linear-gradient(var(--bar), var(--bar)) .75rem 100% / calc(var(--share) * (100% - 1.5rem)) 4px
  no-repeat; }
td.shade { --tint: color-mix(in srgb, var(--bar) calc(var(--shade) * 100%), transparent);
  background-image: linear-gradient(var(--tint), var(--tint)); }
.matrix th, .matrix td { padding: .3rem .45rem; }
.matrix thead th + th { padding: .5rem .2rem; writing-mode: vertical-rl; text-align: end; }
.best { color: var(--accent); font-weight: 700; }
.shade.best { color: var(--ink); }
.alarm { color: var(--warn); font-weight: 700; }
td.alarm.bar { --bar: var(--warn); }
.tables { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 0 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); gap: 1rem;
  align-items: start; margin: 0 0 1.2rem; }
figure { margin: 0; padding: .8rem 1rem .6rem; overflow-x: auto; }
figcaption { font-weight: 600; font-size: .92rem; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; color: var(--muted); font-size: .82rem; }
.legend i { display: inline-block; width: .75rem; height: .75rem; margin-right: .4rem; border-radius: 3px;
  vertical-align: -1px; }
figure > svg { display: block; width: 100%; min-width: 320px; height: auto; }
svg text { fill: var(--muted); font-size: 11px; font-variant-numeric: tabular-nums; }
svg .value { fill: var(--ink); }
svg .gridline { stroke: var(--line); stroke-width: 1; }
svg .frame { stroke: var(--muted); stroke-width: 1; fill: none; }
svg .guide { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 3 4; fill: none; }
svg .threshold { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 2 3; }
svg .hover { fill: transparent; }
svg .hover:hover { fill: var(--ink); fill-opacity: .25; }
figure:has(> .scatter) { grid-column: 1 / -1; overflow: hidden; }
.scatter { display: flow-root; margin-top: .4rem; }
.scatter > b { margin-right: .5rem; color: var(--muted); font-size: .82rem; font-weight: 400; }
.scatter > input { position: absolute; opacity: 0; pointer-events: none; }
.scatter > label { display: inline-block; margin: 0 .3rem .3rem 0; padding: .1rem .7rem; color: var(--muted);
  border: 1px solid var(--line); border-radius: 1rem; font-size: .82rem; cursor: pointer; }
.scatter > label:hover { color: var(--accent); }
.scatter > input:checked + label { color: var(--surface); background: var(--accent); border-color: var(--accent); }
.scatter > input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.scatter > .legend { display: none; margin-bottom: .5rem; }
.scatter > .shapes { display: inline-flex; gap: .9rem; margin: 0 0 .3rem .6rem; font-size: .82rem; }
.scatter .shapes svg { width: .75rem; height: .75rem; margin-right: .35rem; vertical-align: -1px; }
.scatter > svg { display: block; aspect-ratio: 1; overflow: visible; }
.scatter text { font-size: 30px; }
.scatter rect { fill: none; stroke: var(--line); stroke-width: 2; }
.scatter path { fill: none; stroke: currentColor; stroke-linecap: round; }
.scatter .dot path { stroke-width: 90; }
.scatter .t path, .scatter .triangle path { fill: currentColor; stroke: none; }
.scatter .points > g { opacity: .75; }
.scatter .points > g:hover { opacity: 1; }
.scatter .points > g:hover path { stroke: var(--ink); stroke-width: 18px; stroke-linejoin: round; }
svg .whisker { stroke: var(--ink); stroke-width: 1.2; opacity: .75; fill: none; }
"""
    f"@media (max-width: {NARROW_PX}px) {{"
    """
  header { position: static; }
  html { scroll-padding-top: 0; }
  th, td { max-width: 16rem; padding: .35rem .5rem; }
  tbody th { max-width: 10.8rem; }
  main { padding: 1rem .7rem 3rem; }
  figure { padding: .6rem .5rem .4rem; }
  .scatter text { font-size: 38px; }
  h1 { font-size: 1.4rem; }
}
@media print {
  :root { --page: #fff; --surface: #fff; }
  body { font-size: 11px; }
  header { position: static; border: 0; padding: 0; }
  nav { display: none; }
  main { max-width: none; padding: 0; }
  .table { max-height: none; overflow: visible; }
  tr, figure, .facts div { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""
)
