"""Style and script of the report page, which needs no network and no library."""

CSS = """
:root { --ink: #1c1c1c; --soft: #5f5f5f; --line: #dcdcdc; --mark: #d55e00; --back: #fff; --panel: #f6f6f4; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: var(--back); font: 16px/1.5 system-ui, sans-serif; }
main, header { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 40px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 24px 0 6px; overflow-wrap: anywhere; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.lead, figcaption, .quiet { color: var(--soft); }
nav ul { list-style: none; padding: 0; margin: 12px 0; display: flex; flex-wrap: wrap; gap: 6px 16px; }
a { color: #004488; }
figure { margin: 16px 0 28px; }
figcaption { font-size: .88rem; max-width: 46rem; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; border: 1px solid var(--line); border-radius: 6px; }
figure .wide { background: #fff; padding: 8px; }
figure svg { display: block; width: 100%; max-width: var(--full); height: auto; }
.swipe { display: none; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--panel); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; }
td.text { min-width: 14rem; white-space: normal; }
th.words, td.words { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; z-index: 1; }
td:first-child { background: #fff; min-width: 7.5rem; max-width: 11rem; white-space: normal; overflow-wrap: anywhere; }
tbody tr:last-child td { border-bottom: 0; }
ul.flags { padding-left: 1.1rem; }
ul.flags li { margin: 4px 0; }
ul.flags li::marker { color: var(--mark); content: "\\26A0  "; }
.good { color: #00664a; }
code { font-size: .86em; overflow-wrap: anywhere; background: var(--panel); padding: 0 3px; border-radius: 3px; }
a.mark use { pointer-events: all; cursor: pointer; stroke: transparent; }
a.mark:hover use, a.mark:focus use, a.mark.chosen use { stroke: var(--mark); stroke-width: 1.6; }
a.mark:focus { outline: none; }
h4 { margin: 16px 0 4px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); padding: 6px 8px; margin: 4px 0;
  border-radius: 3px; font-size: .82rem; }
details { margin: 6px 0; font-size: .88rem; }
summary { cursor: pointer; color: var(--soft); padding: 4px 0; }
#lineage { position: fixed; right: 16px; bottom: 16px; width: min(440px, calc(100vw - 32px)); max-height: 70vh;
  overflow: auto; background: #fff; border: 1px solid #bbb; border-radius: 8px; box-shadow: 0 6px 28px #0003;
  padding: 12px 16px 16px; font-size: .86rem; }
#lineage[hidden] { display: none; }
#lineage h3 { margin: 0 32px 6px 0; }
#lineage dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 10px; margin: 8px 0; }
#lineage dt { color: var(--soft); }
#lineage dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .92em; }
#lineage button { position: absolute; top: 6px; right: 6px; width: 40px; height: 40px; border: 0; background: none;
  font-size: 1.4rem; cursor: pointer; color: var(--soft); }
#lineage select { max-width: 100%; font: inherit; padding: 6px; }
@media (max-width: 640px) {
  main, header { padding-left: 14px; padding-right: 14px; }
  figure svg { width: auto; max-width: none; min-width: var(--narrow, 620px); }
  .swipe { display: block; font-size: .8rem; color: var(--soft); margin: 4px 0; }
  #lineage { left: 0; right: 0; bottom: 0; width: 100%; max-height: 62vh; border-radius: 12px 12px 0 0; }
}
@media print { #lineage, nav, .swipe { display: none; } .wide { overflow: visible; border: 0; } }
"""
"""A phone scrolls wide figures and tables inside their own frames; the page itself never scrolls sideways."""

SCRIPT = """
(() => {
  const data = JSON.parse(document.getElementById('lineage-data').textContent);
  const box = document.getElementById('lineage');
  const body = box.querySelector('div');
  const words = { study: 'study', point: 'sweep point', run_id: 'MLflow run', stage: 'stage', config: 'config',
    config_artifact: 'config in MLflow', commit: 'commit', data_fingerprint: 'data', data: 'data folder',
    checkpoint: 'checkpoint', evaluation: 'evaluation', metric: 'metric', value: 'value' };
  const add = (parent, kind, text) => {
    const element = document.createElement(kind);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const number = (value) => value === null ? 'not known' : String(+value.toPrecision(6));
  const list = (place, source) => {
    place.replaceChildren();
    for (const [key, label] of Object.entries(words)) {
      add(place, 'dt', label);
      const value = source[key];
      const cell = add(place, 'dd', value === null ? 'not known' : key === 'value' ? number(value) : value);
      if (key === 'data_fingerprint' && document.getElementById('data-' + value)) {
        cell.replaceChildren();
        add(cell, 'a', value).href = '#data-' + value;
      }
    }
  };
  const show = (anchor) => {
    const mark = data.figures[anchor.dataset.figure][anchor.dataset.mark];
    document.querySelectorAll('a.mark.chosen').forEach((other) => other.classList.remove('chosen'));
    anchor.classList.add('chosen');
    body.replaceChildren();
    add(body, 'h3', mark.panel + ' (' + mark.role.replace('_', ' ') + ')');
    add(body, 'p', 'x = ' + number(mark.x) + ', y = ' + number(mark.y));
    const sources = mark.sources.map((index) => data.sources[index]);
    const place = document.createElement('dl');
    if (sources.length > 1) {
      add(body, 'p', 'Drawn from ' + sources.length + ' runs:');
      const choice = add(body, 'select');
      choice.setAttribute('aria-label', 'run');
      sources.forEach((source, index) => {
        add(choice, 'option', (source.point || source.stage || 'run ' + (index + 1)) + ': ' + number(source.value));
      });
      choice.onchange = () => list(place, sources[choice.selectedIndex]);
    }
    body.append(place);
    if (sources.length) list(place, sources[0]); else add(body, 'p', 'No run is known behind this mark.');
    box.hidden = false;
  };
  const hide = () => { box.hidden = true; };
  document.querySelectorAll('a.mark').forEach((anchor) => anchor.addEventListener('click', (event) => {
    event.preventDefault();
    show(anchor);
  }));
  box.querySelector('button').onclick = hide;
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') hide(); });
  const wanted = new URLSearchParams(location.hash.slice(1)).get('mark');
  const anchor = wanted && document.getElementById(wanted);
  if (anchor) show(anchor);
})();
"""
"""Shows the lineage of a mark when it is clicked; `#mark=<figure>-<mark>` in the address opens one directly."""
