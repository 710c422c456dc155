// A device that is lost in the middle of a case: the case fails, and others go on with a new one.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { create, globals } from 'webgpu';
import { Runner, chosen, indexOf, planned, report, runAll, unpacked } from '../run.js';

Object.assign(globalThis, globals);
const load = (file) => readFile(join(process.argv[2], file));
const index = await unpacked(await load('index.json'));
const runner = await Runner.open(create([]), index, 'Dawn');
const entries = chosen(index, { filter: 'stream/1-vec4@' });
const once = runner.once;
let calls = 0;
runner.once = async function lose(device, ...rest) {
  calls += 1;
  if (calls === 1) {
    device.destroy();
    // What waits for a device that is gone may never end.
    await new Promise(() => {});
  }
  return once.call(this, device, ...rest);
};
const rows = [];
await runAll(runner, entries, load, ({ row }) => rows.push(row));
assert.equal(rows.length, planned(runner, entries));
assert.equal(rows[0].outcome, 'flaky', rows[0].detail);
assert.match(rows[0].detail, /^failed 1 of 4 times: the device was lost/);
assert.ok(rows.slice(1).every(({ outcome }) => outcome === 'passed'));
// One after the other that is dead is enough.
runner.once = async (device) => { device.destroy(); await new Promise(() => {}); };
const few = [];
await runAll(runner, entries, load, ({ row }) => few.push(row));
assert.ok(few.every(({ outcome, detail }) => outcome === 'failed' && detail.startsWith('the device was lost')));
const made = report(runner, entries, few, { seconds: 0 });
assert.equal(made.adapters[0].gave_up === null, !runner.hasGivenUp);

// A bundle that stands alone, as reports have it, of any mode.
const whole = await unpacked(await load(entries[0].file));
for (const mode of ['trusted', 'portable']) {
  const run = whole.runs.findLast((run) => run.mode === mode);
  const alone = { ...whole, runs: [run] };
  const single = await Runner.open(create([]), indexOf(alone), 'Dawn');
  const bytes = new TextEncoder().encode(JSON.stringify(alone));
  const made = [];
  await runAll(single, chosen(single.index, {}), () => Promise.resolve(bytes), ({ row }) => made.push(row));
  assert.deepEqual(made.map(({ name, outcome }) => [name, outcome]), [[run.name, 'passed']]);
  assert.equal(planned(single, single.index.cases), 1);
}
process.exit(0);
