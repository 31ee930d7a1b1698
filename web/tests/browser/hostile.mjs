// What an agent, a repository or a prompt may say to hurt who looks: on no page does it become more than text.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

import { comesTo, queue } from './work.mjs';

const { texts, names, branch } = JSON.parse(readFileSync(new URL('hostile.json', import.meta.url), 'utf8'));

export async function hostile(browser) {
  const { page } = browser;
  await browser.open('/');
  // In the prompt, and so in titles, the queue, the fleet; the model says it, thinks it, calls tools with it and writes it into files.
  const session = await queue(browser, texts.join('\n'), 'hostile', 'hostile');
  browser.hostile = session;
  await comesTo(browser, 'completed');
  await browser.clean('the transcript');
  await page.evaluate(() => document.querySelectorAll('main details').forEach((fold) => (fold.open = true)));
  const body = await page.locator('main').innerText();
  assert.ok(body.includes('<script>window.owned = 1</script>'), 'it is shown as what it is');
  assert.ok(body.includes('⟨202E⟩'), 'what turns the direction is made visible');
  assert.ok(body.includes(branch), 'so is the branch');
  await browser.clean('the transcript, unfolded');

  await browser.open(`${session}?tab=changes`);
  for (const name of names.slice(0, 3)) await page.locator('section.file', { hasText: name }).first().waitFor();
  await page.locator('section.file').getByText('<script>window.owned = 1</script>').first().waitFor();
  for (const button of ['Inline', 'Side by side']) {
    await page.getByRole('button', { name: button }).click();
    await browser.clean(`the changes, ${button}`);
  }
  // Whatever reacts to the mouse or the focus gets both.
  for (const file of await page.locator('section.file').all()) {
    await file.hover();
    await file.focus();
  }
  const first = page.locator('section.file').first();
  await first.getByRole('button', { name: /^Comment on/ }).first().click();
  await first.getByRole('textbox').fill(texts.join('\n'));
  await first.getByRole('button', { name: 'Comment', exact: true }).click();
  await first.getByText('<script>window.owned = 1</script>').first().waitFor();
  await browser.clean('a comment');

  // In an error, and so in the inbox.
  const failing = await queue(browser, texts[0], 'hostile-error', 'hostile');
  await browser.open('/inbox');
  await page.locator('li.item pre').first().waitFor();
  assert.ok((await page.locator('li.item pre').first().innerText()).includes('onerror'));
  await browser.clean('the inbox');
  await browser.open(failing);
  await comesTo(browser, 'failed');
  await browser.clean('an error');

  for (const path of ['/', '/queue', '/sessions', '/projects', '/worktrees', '/costs', `/queue?project=${encodeURIComponent(texts[1])}`, `/sessions?state=${encodeURIComponent(texts[0])}`]) {
    await browser.open(path);
    await browser.clean(path);
  }
  // No link leads anywhere but into the dashboard.
  for (const path of [session, `${session}?tab=changes`, '/inbox', '/queue', '/projects']) {
    await browser.open(path);
    const links = await page.locator('a[href]').evaluateAll((all) => all.map((link) => link.protocol + link.host));
    assert.deepEqual([...new Set(links)], [new URL(browser.base).protocol + new URL(browser.base).host]);
  }
}
