#!/usr/bin/env node
// Runs a bundle under Dawn: node node.mjs [FOLDER or bundle.json] [--case NAME] [--filter PART] [--sample] [--json FILE]
import { readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { create, globals } from 'webgpu';
import { Runner, chosen, indexOf, isFine, reasons, report, runAll, unpacked } from './run.js';

Object.assign(globalThis, globals);

async function main() {
  const options = { case: { type: 'string' }, filter: { type: 'string' }, json: { type: 'string' }, sample: { type: 'boolean' } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const path = positionals[0] ?? fileURLToPath(new URL('bundle', import.meta.url));
  let [index, load] = [null, (file) => readFile(join(path, file))];
  if (path.endsWith('.json')) {
    const bytes = await readFile(path);
    [index, load] = [indexOf(await unpacked(bytes)), () => Promise.resolve(bytes)];
  } else {
    index = await unpacked(await load('index.json'));
  }
  const { version } = createRequire(import.meta.url)('webgpu/package.json');
  const gpu = create([]);
  const runner = await Runner.open(gpu, index, `Dawn (webgpu ${version}), Node ${process.version}`);
  const { about } = runner;
  console.log(`${about.adapter}; driver ${about.driver}; kernels ${about.tier ?? 'none can run'}`);

  const choice = { name: values.case, filter: values.filter, isSample: values.sample };
  const entries = chosen(index, choice);
  if (entries.length === 0) throw new Error(`no case of ${path} has such a name`);
  const rows = [];
  const began = performance.now();
  let said = began;
  const done = ({ row, shader }, at) => {
    rows.push(row);
    if (performance.now() - said > 10_000) {
      said = performance.now();
      console.error(`${at} of ${entries.length} cases, ${((said - began) / 1000).toFixed(0)} s`);
    }
    if (!shader) return;
    console.log(`${row.outcome}: ${row.name}: ${row.detail}`);
    console.log(`  in ${shader.file}${row.worst ? `; tolerance: ${row.worst.derivation}` : ''}`);
  };
  let isStopped = false;
  process.once('SIGINT', () => { isStopped = true; });
  await runAll(runner, entries, load, done, () => isStopped);
  const seconds = (performance.now() - began) / 1000;
  const made = report(runner, entries, rows, { ...choice, seconds });
  for (const [why, count] of reasons(rows)) console.log(`unsupported: ${count}: ${why}`);
  console.log(`${Object.entries(made.summary).map(([name, count]) => `${count} ${name.replace('_', ' ')}`).join(', ')} in ${seconds.toFixed(0)} s`);
  if (values.json) await writeFile(values.json, `${JSON.stringify(made)}\n`);
  return isFine(made) ? 0 : 1;
}

main().then((code) => process.exit(code), (error) => {
  console.error(`error: ${error.message}`);
  process.exit(2);
});
