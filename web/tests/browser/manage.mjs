// What people set up and clear away: projects with their checks, webhooks, conflicts, the way back, worktrees.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { createServer } from 'node:http';

import { comesTo, queue } from './work.mjs';

/** What is said in the corner for a moment. */
const said = ({ page }, text) => page.locator('.toast', { hasText: text }).first();

/** A repository is registered and changed by its form, and gets a check. What cannot be is refused, and nothing that was typed is lost. */
export async function projects(browser) {
  const { page } = browser;
  await browser.open('/projects');
  await page.getByRole('button', { name: 'Register a repository …' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Name').fill('lines');
  await dialog.getByLabel('Path on the worker’s host, or URL').fill('/no/such/repository');
  await dialog.getByLabel('Model').fill('scripted/left');
  await dialog.getByLabel('After a failure').selectOption('continue');
  await dialog.getByRole('button', { name: 'Register', exact: true }).click();
  await said(browser, '/no/such/repository').waitFor();
  assert.equal(await dialog.getByLabel('Model').inputValue(), 'scripted/left');
  await dialog.getByLabel('Path on the worker’s host, or URL').fill(browser.repository);
  await dialog.getByRole('button', { name: 'Register', exact: true }).click();
  const card = page.getByRole('region', { name: 'lines', exact: true });
  await card.getByText('scripted/left').waitFor();
  await card.getByText('the session goes on').waitFor();

  // What is emptied is empty, what is not touched stays.
  await page.getByRole('button', { name: 'Change lines' }).click();
  const change = page.getByRole('dialog', { name: 'Change lines' });
  await change.getByLabel('Model').fill('');
  await change.getByLabel('Base branch').fill('main');
  await change.getByLabel('Attempts').fill('5');
  await change.getByRole('button', { name: 'Change', exact: true }).click();
  await change.waitFor({ state: 'hidden' });
  await card.getByText('its own default').waitFor();
  await card.getByText('the session goes on, 5 attempts').waitFor();
  await card.locator('dd bdi', { hasText: /^main$/ }).waitFor();
  await page.getByRole('button', { name: 'Change lines' }).click();
  await change.getByLabel('Base branch').fill('');
  await change.getByRole('button', { name: 'Change', exact: true }).click();
  await card.getByText('the branch checked out then').waitFor();

  await card.getByText('Checks (0)').click();
  for (const [name, command] of [['readme', 'test -s README.md && echo it is there'], ['never', 'false']]) {
    await card.getByLabel('Name of the check').fill(name);
    await card.getByLabel('Its command').fill(command);
    await card.getByRole('button', { name: 'Add a check' }).click();
    await card.getByRole('button', { name: `Remove the check ${name}` }).waitFor();
  }
  await card.getByText('Checks (2)').waitFor();
  await card.getByRole('button', { name: 'Remove the check never' }).click();
  await card.getByText('Checks (1)').waitFor();
}

/** Applies all that waits on the page; the dialog is left as it is. */
async function applyAll({ page }) {
  await page.getByRole('button', { name: 'Apply all …' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Apply', exact: true }).click();
}

/** Two sessions change the same line: it is said before anybody tries, and again when somebody does; the agent resolves it. */
export async function conflicts(browser) {
  const { page } = browser;
  const left = await queue(browser, 'Write the left line', 'left', 'lines');
  await comesTo(browser, 'completed');
  const right = await queue(browser, 'Write the right line', 'right', 'lines');
  await comesTo(browser, 'completed');
  await browser.open(`${right}?tab=changes`);
  const checks = page.getByRole('region', { name: 'Checks' });
  await checks.locator('.state', { hasText: 'passed' }).waitFor();
  await checks.locator('summary').click();
  await checks.locator('pre', { hasText: 'it is there' }).waitFor();
  const forecast = page.getByRole('region', { name: 'Forecast' });
  await forecast.getByText('It would conflict with other open changes').waitFor();
  await forecast.getByRole('link', { name: left.replace('/sessions/', 's') }).click();
  await page.waitForURL(new RegExp(`${left}\\?`));
  await applyAll(browser);
  await page.getByRole('dialog', { name: 'Applied' }).waitFor();
  await page.keyboard.press('Escape');

  await browser.open(`${right}?tab=changes`);
  await forecast.getByText('It would conflict with main').waitFor();
  await forecast.getByText('README.md').first().waitFor();
  await applyAll(browser);
  const dialog = page.getByRole('dialog');
  await dialog.getByText('Conflicts. Nothing was changed.').waitFor();
  await dialog.locator('.conflicts li', { hasText: 'README.md' }).waitFor();
  await dialog.getByRole('button', { name: 'Have the agent resolve it' }).click();
  await page.waitForFunction(() => document.querySelectorAll('details.turn').length === 2);
  await comesTo(browser, 'completed');
  await page.getByRole('tab', { name: /Changes/ }).click();
  await page.getByRole('region', { name: 'README.md', exact: true }).getByText('left and right').first().waitFor();
  assert.equal(await forecast.getByText('It would conflict with main').count(), 0);
  await applyAll(browser);
  await page.getByRole('dialog', { name: 'Applied' }).waitFor();
  await page.keyboard.press('Escape');
}

/** A session goes back to what it was; it is closed, its worktree goes to the trash, and comes back from there. */
export async function wayBack(browser) {
  const { page } = browser;
  const session = await queue(browser, 'Write the first note', 'notes', 'lines');
  await comesTo(browser, 'completed');
  await page.getByLabel('Next prompt').fill('Write the second note');
  await page.getByRole('button', { name: 'Send', exact: true }).click();
  await page.waitForFunction(() => document.querySelectorAll('details.turn').length === 2);
  await comesTo(browser, 'completed');
  await page.getByRole('tab', { name: /Changes/ }).click();
  const notes = page.getByRole('region', { name: 'notes.txt', exact: true });
  await notes.getByText('the second note').first().waitFor();
  await page.getByRole('tab', { name: 'Checkpoints' }).click();
  await page.getByRole('button', { name: 'Roll back here …' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Roll back', exact: true }).click();
  await said(browser, 'is back where it was').waitFor();
  await page.locator('tbody tr').last().locator('.state', { hasText: 'superseded' }).waitFor();
  await page.locator('tbody tr').first().locator('.state', { hasText: 'open' }).waitFor();
  await page.getByRole('tab', { name: /Changes/ }).click();
  await notes.getByText('the first note').first().waitFor();
  assert.equal(await notes.getByText('the second note').count(), 0);

  // All of it is refused, with a question first.
  await page.getByRole('button', { name: 'Reject all …' }).click();
  await page.getByRole('dialog', { name: 'Reject all of it?' }).getByRole('button', { name: 'Reject 1 file' }).click();
  await notes.locator('.state', { hasText: 'rejected' }).waitFor();

  await page.getByRole('button', { name: 'Close session' }).click();
  await page.getByRole('button', { name: 'Reopen' }).waitFor();
  await browser.open('/worktrees?project=lines');
  const row = page.locator('tbody tr', { hasText: `/${session.replace('/sessions/', 's')}` }).first();
  await row.waitFor();
  await page.getByRole('button', { name: 'Let go …' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('None would go now.').waitFor();
  await dialog.getByLabel('Also those whose session was closed less than an hour ago').check();
  await dialog.getByRole('button', { name: 'Let 1 worktree go' }).click();
  await dialog.waitFor({ state: 'hidden' });
  const restore = page.getByRole('button', { name: /^Restore w/ });
  await restore.first().waitFor();
  await restore.first().click();
  await said(browser, 'is back in its place').waitFor();
  await row.locator('.state', { hasText: 'ready' }).waitFor();
}

/** Servers of agents are listed while they run. */
export async function servers(browser) {
  const { page } = browser;
  await browser.open('/agents');
  const row = page.getByRole('region', { name: "Agents' servers" }).locator('tbody tr', { hasText: 'lines' });
  await row.getByText('opencode').waitFor();
  await row.getByText(/^\d+(\.\d+)? MB$/).waitFor();
}

/** A webhook is added, tested, turned off and on, and removed; its receiver here sees what the page says. */
export async function webhooks(browser) {
  const { page } = browser;
  const posts = [];
  let status = 200;
  const receiver = createServer((request, answer) => {
    let body = '';
    request.on('data', (more) => (body += more));
    request.on('end', () => {
      posts.push({ headers: request.headers, body });
      answer.writeHead(status).end();
    });
  });
  await new Promise((resolve) => receiver.listen(0, '127.0.0.1', resolve));
  try {
    await browser.open('/webhooks');
    await page.getByText('Nobody is told.').waitFor();
    await page.getByRole('button', { name: 'Add a webhook …' }).click();
    const dialog = page.getByRole('dialog');
    const url = `http://127.0.0.1:${receiver.address().port}/hook`;
    await dialog.getByLabel('URL').fill(url);
    await dialog.getByRole('button', { name: 'Add', exact: true }).click();
    // Not where nobody has said that it may be: no secret, and the form is as it was.
    await said(browser, 'http').waitFor();
    assert.equal(await dialog.getByLabel('URL').inputValue(), url);
    await dialog.getByLabel('It may be on this machine or in a private network, and without TLS').check();
    await dialog.getByRole('button', { name: 'Add', exact: true }).click();
    const secret = await dialog.locator('pre.secret').innerText();
    await dialog.getByRole('button', { name: 'I have it' }).click();
    await page.getByRole('cell', { name: url }).waitFor();
    assert.equal(await page.getByText(secret).count(), 0, 'it is not shown again');

    await page.getByRole('button', { name: /^Test wh/ }).click();
    const deliveries = page.getByRole('region', { name: 'Deliveries' });
    await deliveries.locator('.state', { hasText: 'delivered' }).waitFor();
    const [post] = posts;
    const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
    const signed = `${post.headers['webhook-id']}.${post.headers['webhook-timestamp']}.${post.body}`;
    assert.equal(post.headers['webhook-signature'], `v1,${createHmac('sha256', key).update(signed).digest('base64')}`);

    status = 500;
    await page.getByRole('button', { name: /^Test wh/ }).click();
    await deliveries.getByRole('cell', { name: '500' }).waitFor();
    await page.getByLabel('State').selectOption('delivered');
    await page.waitForFunction(() => document.querySelectorAll('section[aria-labelledby=deliveries] tbody tr').length === 1);
    await page.getByRole('button', { name: /^Turn wh\d+ off/ }).click();
    await page.getByRole('button', { name: /^Turn wh\d+ on/ }).waitFor();
    await page.getByRole('button', { name: /^Remove wh/ }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Remove', exact: true }).click();
    await page.getByText('Nobody is told.').waitFor();
  } finally {
    receiver.close();
    receiver.closeAllConnections();
  }
}
