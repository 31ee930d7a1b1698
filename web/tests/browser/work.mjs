// What people do: queue, watch, review, apply, answer, retry, look at costs.
import assert from 'node:assert/strict';

import { WITHIN } from './browser.mjs';

/** Queues a task by the form; the session's page is open afterwards. Returns the paths of both. */
export async function queue({ page }, prompt, model, project = 'acme') {
  await page.locator('body').press('n');
  const dialog = page.getByRole('dialog', { name: 'New task' });
  await dialog.getByLabel('Project').selectOption(project);
  await dialog.getByLabel('Prompt').fill(prompt);
  await dialog.getByLabel('Model').fill(`scripted/${model}`);
  await dialog.getByRole('button', { name: 'Queue the task' }).click();
  await page.waitForURL(/\/sessions\/\d+/);
  await dialog.waitFor({ state: 'hidden' });
  return new URL(page.url()).pathname;
}

/** The task that is shown last comes to this state, by what the server tells, without a reload. */
export async function comesTo({ page }, state) {
  await page.locator('details.turn').last().locator('summary .state', { hasText: state }).waitFor({ timeout: WITHIN });
}

export async function emptiness(browser) {
  await browser.open('/');
  await browser.page.getByText('Nothing was done yet.').waitFor();
  await browser.open('/inbox');
  await browser.page.getByText('Nothing needs you.').waitFor();
  await browser.open('/queue');
  await browser.page.getByText('The queue is empty.').waitFor();
}

/** A task is queued and watched: its words come while it runs, and what it did is there when it is over. */
export async function streams(browser) {
  const { page } = browser;
  await browser.open('/');
  browser.session = await queue(browser, 'Add a --json flag to greet', 'greet');
  await page.evaluate(() => {
    globalThis.lengths = new Set();
    setInterval(() => globalThis.lengths.add(document.querySelector('.said')?.textContent.length ?? 0), 20);
  });
  await page.locator('.said .cursor').first().waitFor();
  // Other tabs of the same browser see it, too.
  const other = await browser.context.newPage();
  await other.goto(`${browser.base}/`);
  await other.locator('li.turn', { hasText: 'Add a --json flag to greet' }).waitFor();
  await other.close();
  await comesTo(browser, 'completed');
  await page.getByText('The flag is there.').waitFor();
  const lengths = await page.evaluate(() => globalThis.lengths.size);
  assert.ok(lengths > 3, `its words come one after another: ${lengths}`);
  const tool = page.locator('details.tool', { hasText: 'README.md' }).first();
  assert.equal(await tool.evaluate((one) => one.open), false, 'tools are folded');
  await tool.locator('summary').click();
  await tool.locator('pre', { hasText: 'greets people, also as JSON' }).first().waitFor();
  assert.equal(await page.getByText('No live updates').count(), 0);
  // Who comes later reads it in the order in which it was said.
  const order = () => page.locator('.said, details.tool summary').evaluateAll((all) => all.map((one) => one.textContent.trim().slice(0, 30)));
  const live = await order();
  await page.reload();
  await page.getByText('The flag is there.').waitFor();
  await page.waitForFunction((count) => document.querySelectorAll('.said, details.tool summary').length >= count, live.length);
  assert.deepEqual(await order(), live);
}

/** One file is approved, another rejected, a line is commented on; what was approved is applied, and the comment goes to the agent. */
export async function reviews(browser) {
  const { page } = browser;
  await browser.open(browser.session);
  await page.getByRole('link', { name: 'Review the changes' }).click();
  const card = (path) => page.getByRole('region', { name: path, exact: true });
  await card('README.md').getByText('greets people, also as JSON').first().waitFor();
  await page.getByRole('button', { name: 'Inline' }).click();
  await card('README.md').getByText('greets people, also as JSON').first().waitFor();
  await page.getByRole('button', { name: 'Side by side' }).click();
  await card('Makefile').getByText('runs on your machine').waitFor();

  await card('src/greet.sh').getByRole('button', { name: 'Comment on line 2' }).click();
  await card('src/greet.sh').getByRole('textbox').fill('Why not printf?');
  await card('src/greet.sh').getByRole('button', { name: 'Comment', exact: true }).click();
  await card('src/greet.sh').getByText('Why not printf?').waitFor();

  await card('README.md').getByRole('button', { name: 'Approve README.md' }).click();
  await card('Makefile').getByRole('button', { name: 'Reject Makefile' }).click();
  await page.getByText('1 approved').waitFor();
  if (browser.shots) {
    // What was approved is folded; for the picture it is not.
    await card('README.md').getByRole('button', { name: 'Unfold README.md' }).click();
    await card('README.md').getByText('greets people, also as JSON').first().waitFor();
    await browser.picture('review', 'light');
  }
  await page.getByRole('button', { name: 'Apply 1 file …' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Commit message').fill('Say that it speaks JSON');
  await dialog.getByRole('button', { name: 'Apply', exact: true }).click();
  await page.getByRole('dialog', { name: 'Applied' }).getByText('main').first().waitFor();
  await page.getByRole('dialog').getByRole('button', { name: 'Close', exact: true }).last().click();
  await card('Makefile').locator('.state', { hasText: 'rejected' }).waitFor();
  await card('README.md').locator('.state', { hasText: 'applied' }).waitFor();

  await page.getByRole('button', { name: 'Send as the next prompt' }).click();
  await page.locator('details.turn', { hasText: 'A reviewer has looked' }).waitFor();
  await comesTo(browser, 'completed');
  await page.getByRole('tab', { name: /Changes/ }).click();
  await page.getByRole('button', { name: 'Since you looked' }).click();
  await page.getByText('printf').first().waitFor();
  await page.getByRole('tab', { name: 'Checkpoints' }).click();
  await page.getByRole('button', { name: 'What it changed' }).first().click();
  await page.getByText(/differ from what/).waitFor();
  await page.getByRole('tab', { name: 'Cost and details' }).click();
  await page.getByRole('heading', { name: 'Cost by task' }).waitFor();
}

/** An agent asks; the inbox says so by itself, and the answer lets its turn go on. */
export async function answers(browser) {
  const { page } = browser;
  const session = await queue(browser, 'Touch a file', 'touches');
  await page.getByRole('link', { name: /^Inbox/ }).first().click();
  const item = page.locator('li.item', { hasText: 'Touch a file' });
  await item.getByText('touch asked.txt').waitFor();
  await page.locator('nav .badge').waitFor();
  await browser.open('/');
  await page.locator('li.turn', { hasText: 'Touch a file' }).waitFor();
  await browser.picture('fleet', 'dark');
  await browser.open('/inbox');
  await item.getByText('touch asked.txt').waitFor();
  await item.getByRole('button', { name: 'Allow once' }).click();
  await item.waitFor({ state: 'hidden' });
  await browser.open(session);
  await comesTo(browser, 'completed');

  const asking = await queue(browser, 'Which one', 'questions');
  await browser.open('/inbox');
  const question = page.locator('li.item', { hasText: 'Which database?' });
  await question.getByText('SQLite').click();
  await question.getByPlaceholder('Or in your own words').last().fill('something of my own');
  await question.getByRole('button', { name: 'Answer', exact: true }).click();
  await question.waitFor({ state: 'hidden' });
  await browser.open(asking);
  await comesTo(browser, 'completed');
}

/** A task that failed is retried from the inbox with another prompt and model; another one is dismissed. */
export async function retries(browser) {
  const { page } = browser;
  const session = await queue(browser, 'This one fails', 'fails');
  await browser.open('/inbox');
  const item = page.locator('li.item', { hasText: 'This one fails' });
  await item.getByText('the provider says no').waitFor();
  await item.getByRole('button', { name: 'Retry …' }).click();
  const dialog = page.getByRole('dialog', { name: /^Retry t/ });
  await dialog.getByLabel('Prompt').fill('This one works');
  await dialog.getByLabel('Model').fill('scripted/short');
  await dialog.getByRole('button', { name: 'Retry', exact: true }).click();
  await item.waitFor({ state: 'hidden' });
  await browser.open(session);
  await comesTo(browser, 'completed');
  await page.getByRole('heading', { name: 'Attempt 2' }).waitFor();

  for (const prompt of ['Dismiss this', 'Dismiss that']) await queue(browser, prompt, 'fails');
  await browser.open('/inbox');
  await page.locator('li.item', { hasText: 'Dismiss this' }).waitFor();
  await page.locator('li.item', { hasText: 'Dismiss that' }).waitFor();
  await page.getByLabel('All 2 that failed').check();
  await page.getByRole('button', { name: 'Dismiss 2' }).click();
  await page.getByText('Nothing needs you.').waitFor();
}

/** The chart of costs is drawn, says the same as its table, and follows what is spent. */
export async function costs(browser) {
  const { page } = browser;
  await browser.open('/costs');
  await page.locator('.chart canvas').waitFor();
  const drawn = () =>
    page.locator('.chart canvas').evaluate((canvas) => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      const colours = new Set();
      for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) colours.add(`${data[at]} ${data[at + 1]} ${data[at + 2]}`);
      return colours.size;
    });
  assert.ok((await drawn()) >= 2, 'the chart has bars');
  await page.getByText('As a table').click();
  const today = new Date().toISOString().slice(0, 10);
  await page.getByRole('cell', { name: today }).waitFor();
  const tasks = page.locator('dl.figures div', { hasText: 'Tasks' }).locator('dd');
  const before = Number(await tasks.textContent());
  // Another tab spends; this one follows.
  const other = await browser.context.newPage();
  await other.goto(`${browser.base}/queue`);
  await queue({ page: other }, 'Spend a little', 'short');
  await comesTo({ page: other }, 'completed');
  await other.close();
  await page.waitForFunction(([element, count]) => Number(element.textContent) > count, [await tasks.elementHandle(), before]);
  await page.getByRole('button', { name: 'Set a limit …' }).click();
  await page.getByRole('dialog').getByLabel('Amount').fill('20');
  await page.getByRole('dialog').getByRole('button', { name: 'Set', exact: true }).click();
  await page.getByRole('cell', { name: 'all together' }).waitFor();
  await page.getByText('As a table').click();
  await page.evaluate(() => scrollTo(0, 0));
  // What was said of it stays for a while, over the page.
  await page.getByRole('button', { name: 'Close this message' }).first().click({ timeout: 2_000 }).catch(() => undefined);
  await browser.picture('costs', 'light');
}

/** All of it without a mouse. */
export async function keyboard(browser) {
  const { page } = browser;
  await browser.open('/');
  await page.locator('body').press('?');
  await page.getByRole('dialog', { name: 'Keyboard' }).waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog', { name: 'Keyboard' }).waitFor({ state: 'hidden' });
  await page.keyboard.press('g');
  await page.keyboard.press('q');
  await page.waitForURL(/\/queue$/);
  await browser.settled();
  await page.locator('[data-row]').first().waitFor();
  await page.keyboard.press('j');
  await page.keyboard.press('j');
  assert.equal(await page.evaluate(() => [...document.querySelectorAll('main [data-row]')].indexOf(document.activeElement)), 1);
  await page.keyboard.press('k');
  await page.keyboard.press('/');
  assert.equal(await page.evaluate(() => document.activeElement?.hasAttribute('data-filter')), true);
  await page.keyboard.type('--json');
  await page.keyboard.press('Escape');
  await page.keyboard.press('j');
  await page.keyboard.press('o');
  await page.waitForURL(/\/sessions\/\d+/);
  await page.goBack();
  await page.waitForURL(/\/queue$/);
}
