"""Style and script of the report pages: no request leaves the machine, light and dark, phone and desktop (ours)."""

# ruff: noqa: E501

CSS = """
:root { color-scheme: light dark; --bg: #f7f7f5; --card: #fff; --ink: #1d2329; --soft: #5a646e; --line: #dcdfe2;
  --accent: #0b5fae; --good: #136c3a; --good-bg: #ddf3e4; --bad: #a3161a; --bad-bg: #fde4e3; --wait: #6b5300; --wait-bg: #fdf1cc;
  --code: #f1f3f5; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --card: #1d2125; --ink: #e8eaec; --soft: #a5afb8; --line: #363c42;
  --accent: #7db8f2; --good: #8fe0ae; --good-bg: #15392491; --bad: #ffa7a3; --bad-bg: #51191b91; --wait: #f3d878; --wait-bg: #453a0f91;
  --code: #262b30; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--bg); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
main, header.page { max-width: 68rem; margin: 0 auto; padding: 0 1rem; }
header.page { padding-top: 2rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; text-wrap: balance; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0; min-width: 0; }
h1, h2, h3, dt, dd, code, strong { overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; top: .5rem; background: var(--card); padding: .5rem; z-index: 2; }
.soft { color: var(--soft); font-size: .9rem; margin: .2rem 0; }
.badge { display: inline-block; border-radius: 1rem; padding: .05rem .7rem; font-size: .85rem; font-weight: 600; white-space: nowrap; }
.passed { color: var(--good); background: var(--good-bg); } .failed { color: var(--bad); background: var(--bad-bg); }
.waiting { color: var(--wait); background: var(--wait-bg); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: 1.1rem 1.2rem; margin: 1.2rem 0; }
.card > header { display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: baseline; }
.scroll { overflow-x: auto; }
table, th, td { border: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .32rem .8rem .32rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; }
th { font-weight: 600; }
tbody th { font-weight: 500; }
.overview { width: 100%; } .overview td, .overview th { padding-right: .6rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0 0; padding: 0; }
.numbers div { background: var(--code); border-radius: .5rem; padding: .5rem .7rem; min-width: 0; }
.numbers dt { color: var(--soft); font-size: .82rem; } .numbers dd { margin: 0; font-size: 1.2rem; font-weight: 600;
  font-variant-numeric: tabular-nums; } .numbers dd.text { font-size: .95rem; font-weight: 500; }
figure { margin: 1.4rem 0 0; } figcaption { margin-bottom: .4rem; } figcaption strong { display: block; }
pre.message { white-space: pre-wrap; }
.plot { width: 100%; overflow: hidden; background: #fff; border-radius: .5rem; }
pre { background: var(--code); padding: .8rem; border-radius: .5rem; overflow-x: auto; font: .85rem/1.45 ui-monospace, "DejaVu Sans Mono",
  monospace; }
details { margin-top: .8rem; } summary { cursor: pointer; color: var(--accent); }
.error { border-left: .3rem solid var(--bad); padding-left: .9rem; margin-top: 1rem; }
.error p { margin: .2rem 0; } code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .92em; }
footer { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: var(--soft); font-size: .88rem; }
@media (max-width: 40rem) { figure { overflow-x: auto; } .plot { min-width: 34rem; } figcaption::after { content: "swipe the figure sideways for the rest"; color: var(--soft); font-size: .8rem; font-style: italic; } .card { padding: .9rem; border-radius: .5rem; } .overview .optional { display: none; } h1 { font-size: 1.4rem; } }
@media print { .card { break-inside: avoid; } }
"""

NOTEBOOK_CSS = """
.jp-Cell, .cell { margin: .9rem 0; min-width: 0; } .jp-InputPrompt, .jp-OutputPrompt, .prompt, .anchor-link, .jp-Collapser { display: none; }
.jp-Cell img, .cell img { max-width: 100%; height: auto; }
.highlight pre, .jp-OutputArea-output pre, .output pre { background: var(--code); }
.jp-OutputArea-output { overflow-x: auto; } .jp-OutputArea-output pre, .output pre { white-space: pre-wrap; }
.jp-RenderedHTMLCommon table { margin: .5rem 0; }
.highlight .c1, .highlight .ch { color: var(--soft); font-style: italic; }
.highlight .k, .highlight .kn, .highlight .kc, .highlight .ow { color: var(--accent); font-weight: 600; }
.highlight .s1, .highlight .s2, .highlight .sa, .highlight .sd { color: var(--good); }
.ansi-red-fg, .ansi-red-intense-fg { color: var(--bad); } .ansi-green-fg, .ansi-green-intense-fg { color: var(--good); }
.ansi-blue-fg, .ansi-cyan-fg { color: var(--accent); }
"""

SCRIPT = """
(() => {
  function draw(plot) {
    const { data, layout } = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
    Plotly.react(plot, data, { ...layout, autosize: true }, { responsive: true, displaylogo: false });
  }
  const plots = [...document.querySelectorAll(".plot")];
  if (!window.Plotly) {
    for (const plot of plots) plot.textContent = "The figure needs the plotly file beside the report: keep the folder together.";
    return;
  }
  // One after the other, so that the page can be read and scrolled meanwhile.
  const next = () => { if (plots.length) { draw(plots.shift()); setTimeout(next); } };
  next();
})();
"""
