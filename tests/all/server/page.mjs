// Asks from the page in Chromium, without a window: page.mjs URL DOCUMENT [SCREENSHOT]
import { createRequire } from 'node:module';

const { chromium } = createRequire(new URL('../../../web/conformance/package.json', import.meta.url))('playwright-core');
const [url, file, screenshot] = process.argv.slice(2);
const check = (what, holds) => {
  if (!holds) throw new Error(what);
};

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox'],
});
try {
  const page = await browser.newPage({ viewport: { width: 800, height: 600 } });
  const problems = [];
  page.on('pageerror', (error) => problems.push(error.message));
  page.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
  await page.goto(url);
  await page.waitForFunction(() => document.querySelector('#about').textContent.includes('tokens'));
  await page.setInputFiles('#file', file);
  await page.waitForFunction(() => document.querySelector('#documents').textContent.includes('characters'));
  const texts = (kind) => page.locator(`#talk .${kind}`).allTextContents();
  const ask = async (question, ended) => {
    await page.fill('#question', question);
    await page.click('#ask');
    await page.waitForFunction((ended) => document.querySelectorAll('#talk .used').length === ended, ended, { timeout: 240_000 });
  };
  // The tiny model says what means nothing for as long as it may: it is stopped. Progress may be there for an instant only.
  await page.evaluate(() => {
    const progress = document.querySelector('#progress');
    window.progressed = false;
    new MutationObserver(() => (window.progressed ||= progress.textContent.length > 0))
      .observe(progress, { childList: true, characterData: true, subtree: true });
  });
  await page.fill('#question', 'What is this?');
  await page.click('#ask');
  await page.waitForFunction(() => window.progressed);
  await page.waitForSelector('#talk .assistant, #talk .used, #talk .error');
  if (screenshot) await page.screenshot({ path: screenshot });
  if (await page.isEnabled('#stop')) await page.click('#stop');
  await page.waitForSelector('#talk .used');
  check('the question names its document', (await texts('user'))[0].includes('[') );
  check('the answer is shown', (await texts('assistant'))[0].length > 0);
  // The rest of the context is little, so that this one ends by itself.
  await ask('And?', 2);
  const used = (await texts('used'))[1];
  check(`what was kept is told: ${used}`, / [1-9]\d* of them kept from before; \d+ made/.test(used));
  check(`nothing is wrong: ${problems} ${await texts('error')}`, problems.length === 0 && (await texts('error')).length === 0);
  await page.click('#clear');
  check('a new conversation is empty', (await texts('user')).length === 0);
  // What was asked before is not told to the model again, though its answer had not ended.
  await page.fill('#question', 'What is that?');
  await page.click('#ask');
  await page.waitForSelector('#talk .assistant');
  await page.click('#clear');
  await page.waitForFunction(() => !document.querySelector('#ask').disabled);
  check('a new conversation stays empty', (await page.evaluate(() => messages.length + document.querySelector('#talk').childElementCount)) === 0);
  console.log(used);
} finally {
  await browser.close();
}
