// Every page, in light and dark and as narrow as a phone: what axe finds, what sticks out.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const PAGES = ['/', '/inbox', '/queue', '/sessions', '/costs', '/projects', '/worktrees', '/agents', '/workers', '/webhooks', '/nowhere'];
const TABS = ['', '?tab=changes', '?tab=checkpoints', '?tab=details'];

/** What axe has against the page as it is, in words. */
async function objections({ page }, what) {
  // Injected by the debugger's protocol: the page's policy holds for the page.
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  return found.violations.map(
    ({ id, help, nodes }) => `${what}: ${id}: ${help}\n${nodes.slice(0, 4).map((node) => `    ${node.html.slice(0, 200)}\n    ${node.failureSummary}`).join('\n')}`,
  );
}

async function fits({ page }, what) {
  const [wide, there] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= there, `${what} is ${wide} wide, and there are ${there}`);
}

/** A picture to look at, where there is a folder for them. */
async function picture({ page, all }, path, how) {
  const name = path === '/' ? 'fleet' : path.replace(/\W+/g, '-').replace(/^-/, '');
  if (all) await page.screenshot({ path: `${all}/${name}-${how}.png`, fullPage: true });
}

export async function everyPage(browser) {
  const { page } = browser;
  const sessions = [browser.session, browser.hostile].filter(Boolean);
  const paths = [...PAGES, ...sessions.flatMap((session) => TABS.map((tab) => session + tab))];
  const told = [];
  for (const path of paths) {
    await page.setViewportSize({ width: 1280, height: 860 });
    await browser.theme('light');
    await browser.open(path);
    await fits(browser, path);
    told.push(...(await objections(browser, `${path} in light`)));
    await picture(browser, path, 'light');
    await browser.theme('dark');
    await picture(browser, path, 'dark');
    told.push(...(await objections(browser, `${path} in dark`)));
    await page.setViewportSize({ width: 390, height: 844 });
    await fits(browser, `${path} on a phone`);
    await picture(browser, path, 'phone');
    told.push(...(await objections(browser, `${path} on a phone`)));
    await browser.clean(path);
  }
  await page.setViewportSize({ width: 1280, height: 860 });
  await browser.theme('light');
  await browser.open('/');
  for (const [key, name] of [['n', 'New task'], ['?', 'Keyboard']]) {
    await page.locator('body').press(key);
    await page.getByRole('dialog', { name }).waitFor();
    told.push(...(await objections(browser, name)));
    await page.keyboard.press('Escape');
  }
  assert.equal(told.length, 0, told.join('\n'));
}
