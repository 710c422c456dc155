// The page of the library: which models, how far it is, what came out.
import { checks, tensors } from './library.js';
import { $, NO_WEBGPU, element, say } from './parts.js';

const FOLDER = 'library';
// Tokens of a prompt, and of what follows.
const CONTEXT = 192;

async function load(file) {
  const response = await fetch(`${FOLDER}/${file}`);
  if (!response.ok) throw new Error(`${response.url} is not there (${response.status}): make web-library brings it`);
  return response.arrayBuffer();
}

function show(model, { what, apart, tolerance, passed }) {
  const row = element('tr');
  const number = (value) => (value === 0 ? '0' : value.toExponential(1));
  const numbers = [apart, tolerance].map((value) => element('td', number(value), { class: 'n' }));
  const outcome = element('td', passed ? 'passed' : 'failed', { class: passed ? 'good' : 'bad' });
  row.append(element('th', model, { scope: 'row' }), element('td', what), ...numbers, outcome);
  $('checks').append(row);
  $('table').hidden = false;
}

async function run(library, names) {
  $('start').disabled = true;
  $('checks').replaceChildren();
  const report = { library: 1, adapter: null, models: [] };
  const began = performance.now();
  $('progress').max = names.length;
  for (const [at, name] of names.entries()) {
    $('progress').value = at;
    $('status').textContent = `${name}, ${at + 1} of ${names.length}.`;
    const [file, golden] = await Promise.all(['model.gguf', 'golden.safetensors'].map((part) => load(`${name}/${part}`)));
    const model = await library.Model.load(new Uint8Array(file), CONTEXT);
    report.adapter = model.adapter();
    $('about').replaceChildren(element('dt', 'adapter'), element('dd', report.adapter));
    const rows = await checks(model, tensors(golden));
    model.free();
    report.models.push({ model: name, checks: rows });
    rows.forEach((row) => show(name, row));
  }
  $('progress').value = names.length;
  const failed = report.models.flatMap((model) => model.checks).filter(({ passed }) => !passed).length;
  $('status').textContent = `${names.length} models, ${failed} checks failed, in ${((performance.now() - began) / 1000).toFixed(0)} s.`;
  $('status').className = failed === 0 ? 'good' : 'bad';
  $('start').disabled = false;
  // For who drives the page.
  globalThis.libraryReport = report;
}

async function main() {
  if (!navigator.gpu) return say(NO_WEBGPU);
  const names = JSON.parse(new TextDecoder().decode(await load('models.json')));
  const library = await import(`./${FOLDER}/asynctls_web.js`);
  await library.default();
  $('status').textContent = `${names.length} models.`;
  $('start').disabled = false;
  $('choice').addEventListener('submit', (event) => {
    event.preventDefault();
    run(library, names).catch((error) => say(error.message));
  });
  return undefined;
}

main().catch((error) => say(error.message));
