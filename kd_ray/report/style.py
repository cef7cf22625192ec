"""The page's style sheet: one column, quiet colours, light and dark by the reader's setting."""

CSS = """
:root {
  color-scheme: light dark;
  --heat: 0;
  --page: #f7f7f5; --surface: #ffffff; --ink: #1c2026; --muted: #5c6470; --line: #e0e2e5;
  --grid: #e3e5e8; --accent: #005c91; --hover: #f2f4f6; --best: #eaf3f9;
  --teacher: #9aa2ad; --base: #3d444d;
  --series-1: #0072b2; --series-2: #d55e00; --series-3: #009e73;
  --series-4: #b8528f; --series-5: #a67c00; --series-6: #3b9ddb;
  --phase-1: #3f5c82; --phase-2: #8eaed0; --phase-3: #cfdae6; --phase-4: #b9a06a;
  --warn: #8a5300; --warn-back: #fdf3e1; --warn-line: #ecd3a4;
  --bad: #a3261b; --good: #17693f;
  --sub: #a3261b; --sub-back: #fbe7e4; --del: #6a5a00; --del-back: #f6efcf;
  --ins: #005c91; --ins-back: #e2f0f9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131519; --surface: #1a1d22; --ink: #e5e7eb; --muted: #9ba3af; --line: #2d3239;
    --grid: #2d3239; --accent: #6cb8ea; --hover: #21252b; --best: #1b2c38;
    --teacher: #757e8a; --base: #ccd1d8;
    --series-1: #3f9fdd; --series-2: #ef7d33; --series-3: #1fb98a;
    --series-4: #d982b5; --series-5: #cda52b; --series-6: #8accf5;
    --phase-1: #86aedd; --phase-2: #4f73a1; --phase-3: #304663; --phase-4: #c4ab78;
    --warn: #efc578; --warn-back: #2b2316; --warn-line: #57452199;
    --bad: #f28b80; --good: #63c795;
    --sub: #f5a097; --sub-back: #3b2220; --del: #dec96a; --del-back: #322d17;
    --ins: #86c8f2; --ins-back: #172d3c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    "Liberation Sans", sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 40px 24px 72px; }
header { margin-bottom: 28px; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 6px; }
h2 { font-size: 19px; letter-spacing: -0.01em; margin: 44px 0 12px; }
h3 { font-size: 15px; margin: 26px 0 8px; }
h4 { font-size: 13px; margin: 18px 0 6px; color: var(--muted); font-weight: 600; }
p { margin: 0 0 12px; max-width: 78ch; }
a { color: var(--accent); }
.byline, .note, figcaption { color: var(--muted); font-size: 13px; }
.note { max-width: 92ch; }
.under { margin-top: 12px; }
.under p { margin: 0 0 6px; max-width: none; }
.lead { font-size: 17px; line-height: 1.55; margin: 18px 0 0; max-width: 74ch; }
code, pre, .aligned, .mono {
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
}
code { font-size: 0.92em; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 13px; margin-top: 20px;
  padding-top: 12px; border-top: 1px solid var(--line); }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.card { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; }
.scroll { overflow-x: auto; }
.warnings { background: var(--warn-back); border: 1px solid var(--warn-line); border-radius: 8px;
  padding: 12px 18px; margin: 22px 0 0; }
.warnings h2 { font-size: 14px; margin: 0 0 4px; color: var(--warn); }
.warnings ul { margin: 0; padding-left: 18px; font-size: 14px; }
dl.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 6px 22px;
  margin: 0; padding: 16px 20px; font-size: 14px; }
dl.facts dt { color: var(--muted); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 13px; }
.data { width: 100%; }
.data th, .data td { padding: 6px 8px; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.data thead th { color: var(--muted); font-weight: 500; font-size: 12px; line-height: 1.35;
  vertical-align: bottom; white-space: pre-line; }
.data tbody th { font-weight: 400; }
.data tr > th:first-child { position: sticky; left: 0; background: var(--surface); }
.data tbody tr:hover > th:first-child { background: var(--hover); }
.data tbody tr.best > th:first-child { background: var(--best); }
.data tr > :first-child { padding-left: 16px; }
.data tr > :last-child { padding-right: 16px; }
.data .num { text-align: right; }
.data thead .num { white-space: pre; }
.data tbody tr:last-child > * { border-bottom: 0; }
.data tbody tr:hover { background: var(--hover); }
.data tr.section > * { border-top: 2px solid var(--line); }
.data tr.mean > * { font-style: italic; }
.data tr.best > * { font-weight: 650; background: var(--best); }
.heat td { background: rgb(0 114 178 / var(--heat)); }
.heat td.top { font-weight: 650; }
.data td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 16em; }
.swatch { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 8px; }
.plots { display: grid; grid-template-columns: 1fr; gap: 16px; }
.plots figure, .utterance { margin: 0; padding: 16px 18px 12px; min-width: 0; }
.plots .pair { display: grid; gap: 16px; grid-template-columns: 1fr; }
@media (min-width: 900px) { .plots .pair { grid-template-columns: 1fr 1fr; } }
.plots .scroll > svg { display: block; width: 100%; height: auto; }
.plots .wide .scroll > svg { min-width: 680px; }
.plots .half .scroll > svg { min-width: 380px; }
.plots svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
  Arial, "Liberation Sans", sans-serif !important; }
figcaption { margin: 8px 0 0; max-width: 92ch; }
details > summary { cursor: pointer; }
details.run { margin: 0 0 10px; }
details.run > summary { padding: 10px 18px; display: flex; flex-wrap: wrap; gap: 2px 16px;
  align-items: baseline; list-style: none; }
details.run > summary::-webkit-details-marker { display: none; }
details.run > summary::before { content: "\\203a"; color: var(--muted); display: inline-block;
  width: 8px; transition: transform 0.1s; }
details.run[open] > summary::before { transform: rotate(90deg); }
details.run > summary b { font-weight: 600; }
details.run > summary span { color: var(--muted); font-size: 13px; }
details.run > .inside { padding: 0 18px 14px; border-top: 1px solid var(--line); }
details.more { margin: 12px 0; font-size: 14px; }
details.more > summary { color: var(--accent); }
details.more > .card { margin-top: 10px; }
.badge { font-size: 12px; padding: 0 8px; border: 1px solid currentColor; border-radius: 999px; }
details.run > summary .badge.ok { color: var(--good); }
details.run > summary .badge.warn { color: var(--warn); }
details.run > summary .badge.bad { color: var(--bad); }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 6px; margin: 0 0 10px;
  padding: 10px 14px; font-size: 12.5px; line-height: 1.5; overflow-x: auto; }
.sample { margin-bottom: 12px; }
.utterance figcaption { margin: 0 0 8px; }
.utterance figcaption b { color: var(--ink); font-weight: 600; margin-right: 10px; }
.texts { border-collapse: collapse; font-size: 14px; line-height: 1.5; }
.texts th { text-align: left; font-weight: 500; white-space: nowrap; padding: 1px 14px 1px 0;
  color: var(--muted); vertical-align: top; }
.texts td { vertical-align: top; padding: 1px 4px; }
.texts td.n { color: var(--muted); text-align: right; padding-right: 12px; }
.texts .ref td { font-weight: 600; }
.aligned { font-size: 12px; line-height: 1.45; }
.aligned td, .aligned th { padding: 1px 4px; text-align: center; white-space: nowrap; }
.aligned th { font: 12px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  text-align: left; font-weight: 400; color: var(--muted); position: sticky; left: 0;
  background: var(--surface); padding-right: 14px; max-width: 190px; overflow: hidden;
  text-overflow: ellipsis; }
.aligned td.n { color: var(--muted); text-align: right; padding-right: 12px; }
.aligned .ref > * { border-bottom: 1px solid var(--line); padding-bottom: 3px; }
.aligned .ref td { font-weight: 600; }
.s, .d, .i { border-radius: 3px; }
.s { color: var(--sub); background: var(--sub-back); text-decoration: underline;
  text-underline-offset: 2px; }
.d { color: var(--del); background: var(--del-back); }
.i { color: var(--ins); background: var(--ins-back); }
.key span { padding: 0 6px; margin-right: 4px; }
footer { margin-top: 48px; padding-top: 14px; border-top: 1px solid var(--line);
  color: var(--muted); font-size: 13px; }
@media (max-width: 600px) {
  main { padding: 24px 14px 48px; }
  h1 { font-size: 23px; }
  .lead { font-size: 16px; }
  dl.facts { grid-template-columns: 1fr; gap: 0; }
  dl.facts dd { margin-bottom: 8px; }
}
@media print {
  body { background: none; }
  .card { break-inside: avoid; }
}
"""
