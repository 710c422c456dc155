#!/usr/bin/env node
// Runs the page in Chromium, without a window: node browser.mjs [FOLDER] [--case NAME] [--filter PART] [--sample] [--json FILE] [--screenshot FILE.png]
// or the library's page: node browser.mjs --library [--json FILE] [--screenshot FILE.png]
// CHROMIUM names the program; on SwiftShader, unless ADAPTER names another of Chromium's (see --use-webgpu-adapter).
import { createReadStream } from 'node:fs';
import { access, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { isFine } from './run.js';

const PAGE = fileURLToPath(new URL('.', import.meta.url));
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.json': 'application/json', '.wasm': 'application/wasm' };

// The page's files, and under /bundle/ those of a folder.
function serve(folder) {
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname));
    const [root, rest] = path.startsWith('/bundle/') ? [folder, path.slice(7)] : [PAGE, path === '/' ? 'index.html' : path];
    const file = join(root, rest);
    const isThere = file.startsWith(resolve(root) + sep) && await access(file).then(() => true, () => false);
    response.writeHead(isThere ? 200 : 404, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' });
    if (isThere) createReadStream(file).pipe(response);
    else response.end();
  });
  return new Promise((done) => server.listen(0, '127.0.0.1', () => done(server)));
}

// Cases: the report, whether it is fine, and what is said of it.
async function kernels(page, { filter, ...values }) {
  await page.fill('#filter', values.case ?? filter ?? '');
  if (await page.isEnabled('#start')) await page.keyboard.press('Enter');
  const report = await over(page, 'conformanceReport');
  const { about, rows } = report.adapters[0];
  const bad = rows.filter(({ outcome }) => outcome === 'failed' || outcome === 'flaky');
  const lines = bad.map((row) => `${row.outcome}: ${row.name}: ${row.detail}`);
  lines.push(`${about.adapter}; driver ${about.driver}; kernels ${about.tier}: ${await page.textContent('#status')}`);
  return { report, isFine: isFine(report), lines };
}

// Models, likewise.
async function library(page) {
  if (await page.isEnabled('#start')) await page.click('#start');
  const report = await over(page, 'libraryReport');
  const rows = report.models.flatMap(({ model, checks }) => checks.map((check) => ({ model, ...check })));
  const bad = rows.filter(({ passed }) => !passed);
  const lines = bad.map((row) => `failed: ${row.model}: ${row.what} are ${row.apart} apart, but ${row.tolerance} is the most`);
  lines.push(`${report.adapter}: ${await page.textContent('#status')}`);
  return { report, isFine: bad.length === 0, lines };
}

// What the page leaves where it has ended, or nothing where it has a problem.
async function over(page, name) {
  const isOver = (name) => globalThis[name] || !document.querySelector('#problem').hidden;
  await page.waitForFunction(isOver, name, { timeout: 0, polling: 200 });
  const problem = await page.textContent('#problem');
  if (problem) throw new Error(problem);
  return page.evaluate((name) => globalThis[name], name);
}

async function main() {
  const text = { type: 'string' };
  const options = { case: text, filter: text, json: text, screenshot: text, sample: { type: 'boolean' }, library: { type: 'boolean' } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const server = await serve(resolve(positionals[0] ?? join(PAGE, 'bundle')));
  const adapter = process.env.ADAPTER ?? 'swiftshader';
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--enable-unsafe-webgpu', `--use-webgpu-adapter=${adapter}`, '--enable-features=Vulkan', '--no-sandbox'],
  });
  try {
    const page = await browser.newPage({ viewport: { width: 1000, height: 640 } });
    const problems = [];
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
    const path = values.library ? 'library.html' : values.sample ? '?sample' : '';
    await page.goto(`http://localhost:${server.address().port}/${path}`);
    const isReady = () => !document.querySelector('#start').disabled || !document.querySelector('#problem').hidden;
    await page.waitForFunction(isReady);
    const made = await (values.library ? library(page) : kernels(page, values)).catch((error) => {
      throw new Error([error.message, ...problems].join('; '));
    });
    if (values.screenshot) await page.screenshot({ path: values.screenshot });
    if (problems.length > 0) throw new Error(problems.join('; '));
    made.lines.forEach((line) => console.log(line));
    if (values.json) await writeFile(values.json, `${JSON.stringify(made.report)}\n`);
    return made.isFine ? 0 : 1;
  } finally {
    await browser.close();
    server.close();
  }
}

main().then((code) => process.exit(code), (error) => {
  console.error(`error: ${error.message}`);
  process.exit(2);
});
