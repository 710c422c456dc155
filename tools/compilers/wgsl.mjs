// Compiles kernels with Tint, in Dawn without a GPU, as a browser does. The first line says the version of the package. Paths are
// read from the standard input, one a line. For each come messages, indented, and then a line of "accepted" or "refused", the
// milliseconds that it took and the path.
//   node wgsl.mjs PACKAGE          PACKAGE: the folder of npm's webgpu
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';

const folder = path.resolve(process.argv[2]);
const { create, globals } = await import(path.join(folder, 'index.js'));
Object.assign(globalThis, globals);
console.log('version', JSON.parse(fs.readFileSync(path.join(folder, 'package.json'))).version);

// Kept: Dawn does nothing for a device whose instance is gone.
const gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
const wanted = ['subgroups', 'shader-f16'].filter((feature) => adapter.features.has(feature));
// Dawn's process dies of some 2,700 kernels on one device.
const MOST = 500;
let device, given = MOST;

async function problems(code) {
    if (given === MOST) {
        device?.destroy();
        // With WebGPU's own limits, which every browser has.
        device = await (await gpu.requestAdapter()).requestDevice({ requiredFeatures: wanted });
        given = 0;
    }
    given += 1;
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code });
    const told = (await module.getCompilationInfo()).messages.filter((message) => message.type === 'error');
    device.createComputePipeline({ layout: 'auto', compute: { module } });
    const refused = await device.popErrorScope();
    const lines = told.map((message) => `${message.lineNum}:${message.linePos} ${message.message}`);
    return refused && lines.length === 0 ? [refused.message] : lines;
}

for await (const file of readline.createInterface({ input: process.stdin })) {
    const began = performance.now();
    const lines = await problems(fs.readFileSync(file, 'utf8'));
    const took = Math.round(performance.now() - began);
    for (const line of lines.join('\n').split('\n').filter(Boolean)) console.log(' ', line);
    console.log(lines.length ? 'refused' : 'accepted', took, file);
}
// Dawn's threads would keep the process.
process.exit(0);
