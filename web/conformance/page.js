// The page: what is chosen, how far it is, what came out.
import { $, NO_WEBGPU, element, say } from './parts.js';
import { Runner, chosen, isFine, reasons, report, runAll, unpacked, variants } from './run.js';

const SHOWN = 50;
const query = new URLSearchParams(location.search);
const folder = query.get('bundle') ?? 'bundle';

async function load(file) {
  const response = await fetch(`${folder}/${file}`);
  if (!response.ok) throw new Error(`${response.url} is not there (${response.status})`);
  return response.arrayBuffer();
}

// Which program's WebGPU this is, as it says itself, where it does with its whole version.
async function browser() {
  const data = await navigator.userAgentData?.getHighEntropyValues(['fullVersionList']).catch(() => null);
  const brands = (data?.fullVersionList ?? []).filter(({ brand }) => !/not.*brand/i.test(brand));
  const own = brands.find(({ brand }) => brand !== 'Chromium') ?? brands[0];
  if (own) return `${own.brand} ${own.version}, ${data.platform}`;
  return navigator.userAgent.match(/(Firefox|Version)\/[\d.]+/)?.[0] ?? navigator.userAgent;
}

function showAdapter({ about }) {
  const facts = {
    adapter: about.name,
    browser: about.driver,
    kernels: about.tier ?? 'none can run',
    subgroups: about.subgroup_sizes ? `${about.subgroup_sizes.join(' to ')} lanes` : 'none',
    features: about.features.join(', ') || 'none that kernels use',
    'largest binding': `${about.limits.max_storage_binding_bytes / 2 ** 20} MiB`,
  };
  $('about').replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [element('dt', name), element('dd', value)]));
}

// A cell that stands out where it counts what is wrong.
function count(number, isBad) {
  return element('td', String(number), { class: isBad && number > 0 ? 'n bad' : 'n' });
}

function showRows(rows) {
  const table = variants(rows).map(({ kernel, variant, tier, summary: counts }) => {
    const row = element('tr');
    const name = element('td');
    name.append(element('code', variant ?? ''));
    const cells = [count(counts.passed), count(counts.failed, true), count(counts.unsupported), count(counts.flaky, true)];
    row.append(element('th', kernel, { scope: 'row' }), name, element('td', tier), ...cells);
    return row;
  });
  $('kernels').replaceChildren(...table);
  $('table').hidden = table.length === 0;
  const counts = reasons(rows);
  $('reasons').hidden = counts.size === 0;
  $('reasons').querySelector('ul').replaceChildren(...[...counts].map(([why, count]) => element('li', `${count}: ${why}`)));
}

function showFailure({ row, shader }) {
  const failures = $('failures');
  failures.hidden = false;
  const article = element('article');
  const again = element('a', row.name, { href: `?${new URLSearchParams({ ...(query.has('bundle') && { bundle: folder }), case: row.name })}` });
  const title = element('h3');
  title.append(again);
  article.append(title, element('p', row.detail, { class: 'bad' }));
  if (row.worst) {
    const { part, index, expected, actual, tolerance, derivation, wrong, of } = row.worst;
    const number = (value) => value ?? 'not a number that is finite';
    const facts = { 'worst element': `[${index}] of ${part}`, expected: number(expected), actual: number(actual), tolerance: number(tolerance), 'why so much': derivation, wrong: `${wrong} of ${of}` };
    const list = element('dl');
    list.append(...Object.entries(facts).flatMap(([name, value]) => [element('dt', name), element('dd', String(value))]));
    article.append(list);
  }
  const details = element('details');
  details.append(element('summary', `${shader.file}, assembled`), element('pre', shader.wgsl, { tabindex: '0' }));
  article.append(details);
  failures.append(article);
}

function offer(made) {
  const name = `conformance-${made.adapters[0].about.name.replace(/[^\w.-]+/g, '-')}.json`;
  const link = element('a', '', { download: name, href: URL.createObjectURL(new Blob([`${JSON.stringify(made)}\n`])) });
  link.click();
  URL.revokeObjectURL(link.href);
}

async function run(runner, choice) {
  const entries = chosen(runner.index, choice);
  if (entries.length === 0) return say(`No case has ${choice.name ?? choice.filter} in its name.`);
  $('problem').hidden = true;
  $('failures').querySelectorAll('article').forEach((article) => article.remove());
  $('failures').hidden = true;
  const rows = [];
  let [isStopped, isShown, last, failed] = [false, true, 0, 0];
  $('stop').onclick = () => { isStopped = true; };
  [$('start').disabled, $('stop').disabled, $('download').disabled] = [true, false, true];
  $('progress').max = entries.length;
  const began = performance.now();
  const show = () => {
    isShown = true;
    showRows(rows);
    $('progress').value = last;
  };
  // A few times a second, however many rows there are; readers hear how far it is every ten seconds.
  let said = -Infinity;
  const done = (made, at) => {
    rows.push(made.row);
    last = at;
    if (made.shader && (failed += 1) <= SHOWN) showFailure(made);
    if (isShown) {
      isShown = false;
      setTimeout(show, 250);
    }
    if (performance.now() - said > 10_000) {
      said = performance.now();
      $('status').textContent = `${at} of ${entries.length} cases.`;
    }
  };
  try {
    await runAll(runner, entries, load, done, () => isStopped);
  } catch (error) {
    say(error.message);
  }
  const seconds = (performance.now() - began) / 1000;
  const made = report(runner, entries, rows, { ...choice, seconds });
  const notRun = made.not_run;
  if (!notRun) last = entries.length;
  show();
  const words = Object.entries(made.summary).filter(([name, number]) => number > 0 || ['passed', 'failed'].includes(name));
  $('status').textContent = `${words.map(([name, number]) => `${number} ${name.replace('_', ' ')}`).join(', ')} in ${seconds.toFixed(0)} s${notRun ? `; ${notRun} cases did not run` : ''}.`;
  $('status').className = isFine(made) ? 'good' : 'bad';
  $('download').onclick = () => offer(made);
  [$('start').disabled, $('stop').disabled, $('download').disabled] = [false, true, false];
  // For who drives the page.
  globalThis.conformanceReport = made;
  return undefined;
}

async function main() {
  if (!navigator.gpu) return say(NO_WEBGPU);
  const index = await unpacked(await load('index.json'));
  const runner = await Runner.open(navigator.gpu, index, await browser());
  showAdapter(runner);
  $('filter').value = query.get('case') ?? query.get('filter') ?? '';
  $('status').textContent = `${index.cases.length} cases, version ${index.version}.`;
  $('start').disabled = false;
  $('choice').addEventListener('submit', (event) => {
    event.preventDefault();
    const part = $('filter').value.trim();
    const isName = index.cases.some(({ names }) => names.includes(part));
    run(runner, { isSample: query.has('sample'), ...(isName ? { name: part } : { filter: part || null }) });
  });
  // A link to cases runs them.
  if ($('filter').value) $('choice').requestSubmit();
  return undefined;
}

main().catch((error) => say(error.message));
