// Runs conformance cases on WebGPU, in a browser or in Node. docs/json.md has the shape of a bundle and of the report.

const POISON = 0x7fc0dead;
// As the program has it: how long a case may take, how often one that failed runs again, and how many dead devices are enough.
const LIMIT_SECONDS = 60;
const AGAIN = 3;
const GIVE_UP = 8;

// What the program's report calls WebGPU's features and limits.
const FEATURES = { subgroups: 'subgroups', 'shader-f16': 'shader-f16', 'timestamp-query': 'timestamps' };
const LIMITS = {
  maxBindingsPerBindGroup: 'max_bindings_per_bind_group',
  maxStorageBuffersPerShaderStage: 'max_storage_buffers',
  maxUniformBuffersPerShaderStage: 'max_uniform_buffers',
  maxStorageBufferBindingSize: 'max_storage_binding_bytes',
  maxBufferSize: 'max_buffer_bytes',
  maxComputeWorkgroupStorageSize: 'max_workgroup_bytes',
  maxComputeInvocationsPerWorkgroup: 'max_workgroup_lanes',
  maxComputeWorkgroupSizeX: 'max_workgroup_lanes_x',
  maxComputeWorkgroupsPerDimension: 'max_workgroups_a_dimension',
  minStorageBufferOffsetAlignment: 'storage_offset_alignment',
};
// Limits that the engine asks for as much as there is of; all others stay WebGPU's own, which kernels have to do with.
const RAISED = ['maxStorageBufferBindingSize', 'maxBufferSize'];

/// A case is wrong, or did not run.
class Wrong extends Error {
  constructor(message, more = {}) {
    super(message);
    Object.assign(this, more);
  }
}

/// A bundle or an index, packed or not: servers may unpack what they serve.
export async function unpacked(bytes) {
  const view = new Uint8Array(bytes);
  if (view[0] !== 0x1f || view[1] !== 0x8b) return JSON.parse(new TextDecoder().decode(view));
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text());
}

/// The index of a bundle that stands alone.
export function indexOf(bundle) {
  const names = [...new Set(bundle.runs.map((run) => run.name))];
  const tiers = [...new Map(bundle.runs.map((run) => [run.tier, { name: run.tier, needs: run.needs }])).values()];
  const entry = { case: bundle.case, kernel: bundle.kernel, file: bundle.case, bytes: 0, names };
  // All its runs are wanted, whatever their modes.
  return { isAlone: true, bundle: bundle.bundle, version: '', settings: { case: null, filter: null, quick: false }, tiers, cases: [entry], left_out: [] };
}

/// Whether a pattern, in which * stands for any characters, is in a name.
export function fits(pattern, name) {
  const parts = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'));
  return new RegExp(parts.join('.*'), 's').test(name);
}

/// The adapter, and which of a bundle's tiers it can run.
export class Runner {
  /// `implementation` says which program's WebGPU this is.
  static async open(gpu, index, implementation, options = {}) {
    if (index.bundle !== 2) throw new Error(`the bundle has version ${index.bundle}, and this page runs version 2`);
    const adapter = await gpu.requestAdapter(options);
    if (!adapter) throw new Error('there is no WebGPU adapter here');
    return new Runner(gpu, adapter, index, implementation, options);
  }

  constructor(gpu, adapter, index, implementation, options) {
    Object.assign(this, { gpu, adapter, index, options, device: null, pipelines: new Map(), dead: 0 });
    this.tier = index.tiers.find((tier) => this.missing(tier.needs) === null);
    this.about = this.describe(implementation);
  }

  describe(implementation) {
    const { info, features, limits } = this.adapter;
    const words = [info.vendor, info.architecture || info.device].filter(Boolean);
    const name = words.join(' ') || info.description || 'unnamed';
    const driver = [info.description, implementation].filter(Boolean).join('; ');
    const sizes = features.has('subgroups') ? [info.subgroupMinSize, info.subgroupMaxSize] : null;
    return {
      adapter: `webgpu:${name}`,
      backend: 'webgpu',
      name,
      kind: this.isFallback() ? 'cpu' : 'other',
      driver,
      tier: this.tier?.name ?? null,
      subgroup_sizes: sizes,
      features: Object.keys(FEATURES).filter((name) => features.has(name)).map((name) => FEATURES[name]),
      limits: Object.fromEntries(Object.entries(LIMITS).map(([theirs, ours]) => [ours, limits[theirs]])),
    };
  }

  isFallback() {
    return Boolean(this.adapter.info.isFallbackAdapter ?? this.adapter.isFallbackAdapter);
  }

  /// What the adapter lacks of these needs, in words; null where nothing.
  missing(needs) {
    const { info, features } = this.adapter;
    const feature = needs.features.find((name) => !features.has(name));
    if (feature) return `the feature ${feature} is absent, but the kernel uses it`;
    const language = needs.language.find((name) => !this.gpu.wgslLanguageFeatures?.has(name));
    if (language) return `the language feature ${language} is absent, but the kernel uses it`;
    const [least, most] = [info.subgroupMinSize, info.subgroupMaxSize];
    const size = needs.subgroup_size;
    if (size !== null && (least !== size || most !== size)) {
      return `the subgroup size is ${least} to ${most}, but the kernel is for ${size}`;
    }
    if (needs.fallback && !this.isFallback()) return 'lanes are real, but the kernel is for those that are emulated';
    for (const [name, value] of Object.entries(needs.limits)) {
      const has = (RAISED.includes(name) ? this.adapter.limits : DEFAULTS)[name];
      if (has < value) return `${name} is ${has}, but ${value} is needed`;
    }
    return null;
  }

  /// The runs of a case for this adapter: those of its tier, and what runs everywhere.
  runsOf(bundle) {
    const name = this.tier?.name;
    const isOurs = (run) => (run.mode === 'portable' ? name !== 'portable' : run.tier === name);
    return bundle.runs.filter((run) => this.index.isAlone || isOurs(run));
  }

  async open() {
    if (this.device) return this.device;
    // An adapter makes one device.
    if (this.isUsed) this.adapter = await this.gpu.requestAdapter(this.options);
    if (!this.adapter) throw new Wrong('the adapter is gone', { isDead: true });
    this.isUsed = true;
    const requiredFeatures = ['subgroups', 'shader-f16'].filter((name) => this.tier?.needs.features.includes(name));
    const requiredLimits = Object.fromEntries(RAISED.map((name) => [name, this.adapter.limits[name]]));
    const device = await this.adapter.requestDevice({ requiredFeatures, requiredLimits });
    device.lost.then(() => {
      if (this.device === device) this.close();
    });
    this.device = device;
    return device;
  }

  close() {
    const device = this.device;
    this.device = null;
    this.pipelines.clear();
    device?.destroy();
  }

  /// Runs one run of a bundle, again where it failed: a row of the report, and where it failed what is to be seen.
  async row(bundle, run) {
    const row = {
      name: run.name, kernel: bundle.kernel, variant: run.variant, tier: run.tier, mode: run.mode,
      outcome: 'passed', detail: null, worst: null, runs: 0, failures: 0, seconds: 0,
    };
    const lacks = run.unsupported ?? this.missing(run.needs);
    if (lacks) return { row: { ...row, outcome: 'unsupported', detail: lacks, runs: 1 } };
    let failure = null;
    const began = performance.now();
    while (row.runs === 0 || (row.failures > 0 && row.runs <= AGAIN && !failure.isLate)) {
      row.runs += 1;
      const wrong = await this.attempt(bundle, run);
      if (row.runs === 1) row.seconds = (performance.now() - began) / 1000;
      this.dead = wrong?.isDead ? this.dead + 1 : 0;
      if (wrong) {
        row.failures += 1;
        failure ??= wrong;
      }
    }
    if (!failure) return { row };
    const isFlaky = row.failures < row.runs;
    row.outcome = isFlaky ? 'flaky' : 'failed';
    row.detail = isFlaky ? `failed ${row.failures} of ${row.runs} times: ${failure.message}` : failure.message;
    row.worst = failure.worst ?? null;
    // The kernel that left what is wrong, or did not compile.
    const dispatch = run.dispatches[failure.dispatch ?? run.dispatches.length - 1];
    return { row, shader: { file: dispatch.file, wgsl: bundle.texts[dispatch.text] } };
  }

  get hasGivenUp() {
    return this.dead >= GIVE_UP;
  }

  async attempt(bundle, run) {
    let timer;
    try {
      const device = await this.open();
      const lost = device.lost.then(({ reason, message }) => {
        throw new Wrong(`the device was lost: ${reason} ${message}`.trim(), { isDead: true });
      });
      const late = new Promise((_, reject) => {
        const end = () => reject(new Wrong(`it did not end in ${LIMIT_SECONDS} s`, { isDead: true, isLate: true }));
        timer = setTimeout(end, LIMIT_SECONDS * 1000);
      });
      await Promise.race([this.once(device, bundle, run), lost, late]);
      return null;
    } catch (error) {
      if (error.isDead) this.close();
      return error instanceof Wrong ? error : new Wrong(String(error.message ?? error));
    } finally {
      clearTimeout(timer);
    }
  }

  async once(device, bundle, run) {
    const made = [];
    const buffer = (size, usage) => {
      const buffer = device.createBuffer({ size, usage });
      made.push(buffer);
      return buffer;
    };
    for (const kind of ['out-of-memory', 'internal', 'validation']) device.pushErrorScope(kind);
    let [results, failure] = [null, null];
    try {
      const pipelines = [];
      for (const [number, dispatch] of run.dispatches.entries()) {
        pipelines.push(await this.pipeline(device, bundle, dispatch, number));
      }
      const buffers = run.buffers.map((described) => filled(device, buffer, bundle, described, run));
      const encoder = device.createCommandEncoder();
      const isReady = new Set();
      const ready = (number) => {
        const { copy } = run.buffers[number];
        if (isReady.has(number) || !copy) return;
        isReady.add(number);
        ready(copy.buffer);
        encoder.copyBufferToBuffer(buffers[copy.buffer], 4 * copy.first_word, buffers[number], 0, 4 * copy.words);
      };
      for (const [number, dispatch] of run.dispatches.entries()) {
        dispatch.bindings.forEach((bound) => ready(bound.buffer));
        record(device, encoder, pipelines[number], dispatch, buffers);
      }
      const read = [...new Set(run.checks.map((check) => check.buffer))];
      results = read.map((number) => {
        const { bytes } = run.buffers[number];
        const copy = buffer(bytes, GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ);
        encoder.copyBufferToBuffer(buffers[number], 0, copy, 0, bytes);
        return [number, copy];
      });
      device.queue.submit([encoder.finish()]);
    } catch (error) {
      failure = error;
    }
    const errors = await Promise.all([device.popErrorScope(), device.popErrorScope(), device.popErrorScope()]);
    try {
      // What was seen first says where it is.
      if (failure) throw failure;
      const error = errors.find(Boolean);
      if (error) throw new Wrong(error.message);
      const words = new Map();
      for (const [number, copy] of results) {
        await copy.mapAsync(GPUMapMode.READ);
        words.set(number, new Uint32Array(copy.getMappedRange().slice(0)));
      }
      for (const check of run.checks) compare(bundle, run, check, words.get(check.buffer));
    } finally {
      made.forEach((buffer) => buffer.destroy());
    }
  }

  async pipeline(device, bundle, dispatch, number) {
    const code = bundle.texts[dispatch.text];
    const known = this.pipelines.get(code);
    if (known) return known;
    const module = device.createShaderModule({ label: dispatch.file, code });
    const { messages } = await module.getCompilationInfo();
    const bad = messages.find((message) => message.type !== 'info');
    if (bad) throw new Wrong(`${dispatch.file}:${bad.lineNum}: ${bad.message}`, { dispatch: number });
    const entries = dispatch.bindings.map(({ binding, kind }) => (
      { binding, visibility: GPUShaderStage.COMPUTE, buffer: { type: kind } }
    ));
    const group = device.createBindGroupLayout({ entries });
    const layout = device.createPipelineLayout({ bindGroupLayouts: [group] });
    const compute = { module, entryPoint: dispatch.entry_point };
    let pipeline;
    try {
      pipeline = await device.createComputePipelineAsync({ label: dispatch.file, layout, compute });
    } catch (error) {
      throw new Wrong(`${dispatch.file}: ${error.message}`, { dispatch: number });
    }
    const made = { pipeline, group };
    this.pipelines.set(code, made);
    return made;
  }
}

// What WebGPU guarantees of the limits that cases name.
const DEFAULTS = {
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupsPerDimension: 65535,
};

function filled(device, buffer, bundle, described, run) {
  const number = run.buffers.indexOf(described);
  const isUniform = run.dispatches.some(({ bindings }) => (
    bindings.some((bound) => bound.buffer === number && bound.kind === 'uniform')
  ));
  const usage = isUniform ? GPUBufferUsage.UNIFORM : GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
  const made = buffer(described.bytes, usage | GPUBufferUsage.COPY_DST);
  if (described.data !== null) {
    device.queue.writeBuffer(made, 0, bytesOf(bundle, described.data));
  } else if (!described.copy) {
    device.queue.writeBuffer(made, 0, new Uint32Array(described.bytes / 4).fill(POISON));
  }
  return made;
}

function record(device, encoder, { pipeline, group }, dispatch, buffers) {
  const entries = dispatch.bindings.map(({ binding, buffer }) => ({ binding, resource: { buffer: buffers[buffer] } }));
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: group, entries }));
  pass.dispatchWorkgroups(...dispatch.workgroups);
  pass.end();
}

const decoded = new WeakMap();

// Data of a bundle, decoded once.
function bytesOf(bundle, number) {
  if (!decoded.has(bundle)) decoded.set(bundle, []);
  return (decoded.get(bundle)[number] ??= Uint8Array.from(atob(bundle.data[number]), (c) => c.charCodeAt(0)));
}

const wordsOf = (bundle, number) => new Uint32Array(bytesOf(bundle, number).buffer);

function numbersOf(bundle, numbers) {
  if (typeof numbers === 'number') return () => numbers;
  const all = new Float64Array(bytesOf(bundle, numbers.data).buffer);
  return (i) => all[i];
}

const bits = new DataView(new ArrayBuffer(4));

function float(word) {
  bits.setUint32(0, word);
  return bits.getFloat32(0);
}

function half(word) {
  const [sign, exponent, fraction] = [word & 0x8000 ? -1 : 1, (word >> 10) & 31, word & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}

/// How words hold elements: bits of one, and its value.
const FORMATS = {
  f32: [32, float],
  f16: [16, half],
  u32: [32, (word) => word],
  u8: [8, (word) => word & 255],
  u4: [4, (word) => word & 15],
  u2: [2, (word) => word & 3],
};

// How often its tolerance an element is off. A value that is not finite must be met by one that is not finite.
function off(isPoison, got, want, tolerance) {
  if (tolerance === Infinity) return 0;
  if (isPoison || Number.isFinite(want) !== Number.isFinite(got)) return Infinity;
  if (!Number.isFinite(want)) return 0;
  const distance = Math.abs(got - want);
  if (distance <= tolerance) return 0;
  return distance / tolerance || Infinity;
}

/// Compares what a check is of, as the program does (src/conformance/rig.rs): throws what is wrong.
export function compare(bundle, run, check, words) {
  const [size, value] = FORMATS[check.format];
  const at = check.words === null ? null : wordsOf(bundle, check.words);
  const [want, tolerance] = [numbersOf(bundle, check.expected), numbersOf(bundle, check.tolerance)];
  const isFloat = check.format.startsWith('f');
  const element = (i) => {
    const place = Math.floor((i * size) / 32);
    const word = words[at ? at[place] : check.first_word + place];
    return { isPoison: isFloat && word === POISON, got: value(size === 32 ? word : word >>> ((i * size) % 32)), word };
  };
  let [wrong, worst, most] = [0, null, 0];
  for (let i = 0; i < check.count; i += 1) {
    const { isPoison, got } = element(i);
    const by = off(isPoison, got, want(i), tolerance(i));
    if (by > 0) wrong += 1;
    if (by > most) [worst, most] = [i, by];
  }
  if (wrong === 0) return;
  const { isPoison, got, word } = element(worst);
  const others = wrong > 1 ? `; ${wrong} of ${check.count} are wrong` : '';
  const place = `${check.part}[${worst}]`;
  const shown = (number) => number.toExponential().replace('e+', 'e');
  const exact = tolerance(worst) === 0;
  const message = isPoison || (word === POISON && exact) ? `${place} was not written${others}`
    : exact ? `${place} is ${got}, not ${want(worst)}${others}`
      : `${place} is ${shown(got)}, not ${shown(want(worst))} within ${shown(tolerance(worst))}${others}`;
  const finite = (number) => (Number.isFinite(number) ? number : null);
  const writes = ({ bindings }) => bindings.some((bound) => bound.buffer === check.buffer && bound.kind === 'storage');
  throw new Wrong(message, {
    dispatch: run.dispatches.findLastIndex(writes),
    worst: {
      part: check.part, index: worst, expected: finite(want(worst)), actual: isPoison ? null : finite(got),
      tolerance: finite(tolerance(worst)), derivation: check.derivation, wrong, of: check.count,
    },
  });
}

/// The cases of an index that are chosen, with the names of those of their runs; of a sample the smallest of each kernel.
export function chosen(index, { name, filter, isSample }) {
  const takes = (run) => (name ? run === name : filter ? fits(filter, run) : true);
  const all = index.cases.map((entry) => ({ ...entry, names: entry.names.filter(takes) }));
  const entries = all.filter((entry) => entry.names.length > 0);
  if (!isSample) return entries;
  const smallest = new Map();
  for (const entry of entries) {
    if (!(smallest.get(entry.kernel)?.bytes <= entry.bytes)) smallest.set(entry.kernel, entry);
  }
  return [...smallest.values()];
}

/// How many rows these cases make.
export function planned(runner, entries) {
  const isPortable = runner.tier?.name === 'portable' && !runner.index.isAlone;
  const isOurs = (name) => !isPortable || !name.endsWith('@portable');
  return entries.reduce((sum, { names }) => sum + names.filter(isOurs).length, 0);
}

/// Runs cases one after the other, and loads the next one meanwhile; `done` sees each row.
export async function runAll(runner, entries, load, done, stops = () => false) {
  const ahead = (at) => {
    const loading = at < entries.length ? load(entries[at].file).then(unpacked) : null;
    // Who waits for it sees that it failed.
    loading?.catch(() => {});
    return loading;
  };
  let next = ahead(0);
  for (const [at, entry] of entries.entries()) {
    if (stops() || runner.hasGivenUp) return;
    const bundle = await next;
    next = ahead(at + 1);
    for (const run of runner.runsOf(bundle).filter((run) => entry.names.includes(run.name))) {
      if (stops() || runner.hasGivenUp) return;
      done(await runner.row(bundle, run), at);
    }
  }
}

const OUTCOMES = { passed: 'passed', failed: 'failed', unsupported: 'unsupported', known_failure: 'known_failures', flaky: 'flaky' };

/// How many rows came to what.
export function summary(rows) {
  const counts = Object.fromEntries(Object.values(OUTCOMES).map((name) => [name, 0]));
  rows.forEach((row) => { counts[OUTCOMES[row.outcome]] += 1; });
  return counts;
}

/// Why cases are unsupported, and how many are.
export function reasons(rows) {
  const counts = new Map();
  for (const { detail } of rows.filter(({ outcome }) => outcome === 'unsupported')) {
    counts.set(detail, (counts.get(detail) ?? 0) + 1);
  }
  return counts;
}

/// Whether nothing of a report is wrong, and all of it ran.
export function isFine({ summary: counts, not_run: notRun }) {
  return counts.failed + counts.flaky + notRun === 0;
}

/// How many rows came to what, by kernel, variant and tier.
export function variants(rows) {
  const groups = new Map();
  for (const row of rows) {
    const key = JSON.stringify([row.kernel, row.variant ?? '', row.tier]);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  const sorted = [...groups.entries()].sort(([a], [b]) => (a < b ? -1 : 1));
  return sorted.map(([, rows]) => {
    const { kernel, variant, tier } = rows[0];
    return { kernel, variant, tier, summary: summary(rows) };
  });
}

/// The report, in the shape that the program's own has.
export function report(runner, entries, rows, { name = null, filter = null, isSample = false, seconds }) {
  const { index, about } = runner;
  const notRun = planned(runner, entries) - rows.length;
  const counts = summary(rows);
  const gaveUp = runner.hasGivenUp ? `${GIVE_UP} cases one after the other hung or lost the device` : null;
  const adapter = { about, summary: counts, not_run: notRun, gave_up: gaveUp, variants: variants(rows), rows, seconds };
  return {
    command: 'conformance',
    schema: 1,
    version: index.version,
    date: new Date().toISOString().slice(0, 10),
    settings: { case: name ?? index.settings.case, filter: filter ?? index.settings.filter, quick: isSample || index.settings.quick },
    summary: counts,
    not_run: notRun,
    adapters: [adapter],
    seconds,
  };
}
