// What is large, and what breaks: a diff of thousands of files, a stream that is cut again and again.
import assert from 'node:assert/strict';
import { connect, createServer } from 'node:net';

import { comesTo, queue } from './work.mjs';

/** Files of the large change set; the script makes as many. */
const FILES = 5000;
/** Milliseconds until there is something to see, and the longest that a page may not react. */
const FIRST_PAINT = 1000;
const LONGEST_TASK = 1000;

/** A diff of thousands of files opens at once, and every file of it can be found and read. */
export async function large(browser) {
  const { page } = browser;
  const session = await queue(browser, 'Write very many files', 'many', 'lines');
  await comesTo(browser, 'completed');
  await page.addInitScript(() => {
    globalThis.longest = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => (globalThis.longest = Math.max(globalThis.longest, entry.duration)))).observe({
      type: 'longtask',
      buffered: true,
    });
  });
  const begun = performance.now();
  await page.goto(`${browser.base}${session}?tab=changes`);
  await page.locator('section.file').getByText('file number').first().waitFor();
  const readable = performance.now() - begun;
  const painted = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime);
  const files = page.getByRole('group', { name: 'Files' });
  await page.getByText(`${FILES.toLocaleString('en')} files`).first().waitFor();
  assert.ok((await files.locator('li').count()) < 200, 'only those in sight are drawn');
  await page.getByText(`1 to 40 of ${FILES.toLocaleString('en')}`).waitFor();
  await page.getByPlaceholder('Filter files').fill('4999');
  await files.getByRole('button', { name: /file-4999/ }).click();
  await page.getByRole('region', { name: /file-4999/ }).getByText('file number 4999').first().waitFor();
  await page.getByPlaceholder('Filter files').fill('');
  await files.evaluate((list) => (list.scrollTop = list.scrollHeight));
  await files.locator('li').last().getByRole('button').click();
  await page.getByRole('region', { name: /file-/ }).last().getByText('file number').first().waitFor();
  const longest = await page.evaluate(() => globalThis.longest);
  console.log(`a diff of ${FILES} files: first paint ${painted.toFixed(0)} ms, readable after ${readable.toFixed(0)} ms, longest task ${longest.toFixed(0)} ms`);
  assert.ok(painted < FIRST_PAINT, `the first paint took ${painted} ms`);
  assert.ok(longest < LONGEST_TASK, `the page did not react for ${longest} ms`);
}

/** Stands between a page and the server, cuts connections, and remembers where streams went on. */
class Cuts {
  resumed = [];
  sockets = new Set();

  static async before(base) {
    const made = new Cuts();
    const { hostname, port } = new URL(base);
    made.server = createServer((near) => {
      const far = connect(Number(port), hostname);
      for (const socket of [near, far]) {
        made.sockets.add(socket);
        socket.on('error', () => undefined);
        socket.on('close', () => {
          made.sockets.delete(socket);
          near.destroy();
          far.destroy();
        });
      }
      near.on('data', (bytes) => {
        const text = bytes.toString('latin1');
        if (!/^GET \/api\/tasks\/\d+\/stream/m.test(text)) return;
        made.resumed.push(/last-event-id: (\S+)/i.exec(text)?.[1] ?? /last_event_id=([^ &]+)/.exec(text)?.[1] ?? '');
      });
      near.pipe(far);
      far.pipe(near);
    });
    await new Promise((resolve) => made.server.listen(0, '127.0.0.1', resolve));
    made.base = `http://127.0.0.1:${made.server.address().port}`;
    return made;
  }

  cut() {
    for (const socket of this.sockets) socket.destroy();
  }

  close() {
    this.server.close();
    this.cut();
  }
}

/** A stream that is cut goes on behind the last event that came: what is on the page in the end is what was said, once. */
export async function cuts(browser) {
  const { page } = browser;
  const session = await queue(browser, 'Stream slowly', 'slow');
  const between = await Cuts.before(browser.base);
  browser.own.add(between.base);
  const other = await browser.context.newPage();
  try {
    await other.goto(`${between.base}${session}`);
    const length = () => other.evaluate(() => document.querySelector('.transcript')?.textContent.length ?? 0);
    for (let times = 0; times < 3; times += 1) {
      const before = await length();
      await other.waitForFunction((least) => (document.querySelector('.transcript')?.textContent.length ?? 0) > least, before + 20);
      between.cut();
    }
    await comesTo({ page: other }, 'completed');
    await other.getByText('The flag is there.').waitFor();
    await comesTo(browser, 'completed');
    // Line by line, whatever their order: a text that was whole only after a tool had begun is recorded behind that.
    const text = async (one) => (await one.locator('.transcript').first().innerText()).split('\n').filter(Boolean).sort().join('\n');
    await browser.open(session);
    await page.getByText('The flag is there.').waitFor();
    assert.equal(await text(other), await text(page), 'what was followed is what was recorded');
    const behind = between.resumed.filter((id) => /^\d+\.\d+$/.test(id));
    assert.ok(behind.length >= 2, `it went on behind an event: ${between.resumed.join(' ')}`);
    assert.ok(new Set(behind).size === behind.length, `each time behind a later one: ${behind.join(' ')}`);
  } finally {
    await other.close();
    between.close();
  }
}
