// A real Chromium, watched: what it asks of whom, what it says in its console, and whether anything ran that should not.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { chromium } from 'playwright-core';

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  // What is not this machine is not found; a request to it is still seen.
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
];
/** Longest that anything on a page may take: a turn of a real agent is in it, on a busy machine. */
export const WITHIN = Number(process.env.MILLHAND_BROWSER_WITHIN ?? 90_000);

export class Browser {
  /** What went wrong behind the pages' backs. */
  wrong = [];
  /** Where pages may ask. */
  own = new Set();

  static async start(base, login) {
    const made = new Browser();
    made.base = base;
    made.profile = mkdtempSync(join(tmpdir(), 'millhand-browser-'));
    made.context = await chromium.launchPersistentContext(made.profile, {
      executablePath: process.env.MILLHAND_CHROMIUM || '/usr/bin/chromium',
      args: FLAGS,
      viewport: { width: 1280, height: 860 },
      colorScheme: 'light',
      // Colours on their way from one to the other are not what anybody reads.
      reducedMotion: 'reduce',
    });
    made.context.setDefaultTimeout(WITHIN);
    made.watch();
    made.page = await made.context.newPage();
    await made.page.goto(login || made.base);
    return made;
  }

  watch() {
    this.own.add(new URL(this.base).origin);
    this.context.on('request', (request) => {
      if (!this.own.has(new URL(request.url()).origin)) this.wrong.push(`a request to ${request.url()}`);
    });
    this.context.on('page', (page) => {
      page.on('pageerror', (error) => this.wrong.push(`an error on ${page.url()}: ${error.stack ?? error.message}`));
      page.on('dialog', (dialog) => {
        this.wrong.push(`a dialog: ${dialog.message()}`);
        void dialog.dismiss();
      });
      page.on('popup', (popup) => this.wrong.push(`a window: ${popup.url()}`));
      page.on('download', () => this.wrong.push('a download'));
      page.on('console', (message) => {
        const text = message.text();
        // A policy that had to refuse something is a hole in the page, too.
        if (/Content Security Policy|Refused to/.test(text)) this.wrong.push(`the policy had to refuse on ${page.url()}: ${text}`);
      });
    });
  }

  /** Nothing went wrong so far, and nothing of anybody else's runs on the page. */
  async clean(what) {
    assert.equal(await this.page.evaluate(() => globalThis.owned), undefined, `${what}: a text ran as a script`);
    assert.deepEqual(this.wrong, [], what);
  }

  async open(path) {
    await this.page.goto(this.base + path);
    await this.settled();
  }

  /** All that is shown has been loaded. */
  async settled() {
    await this.page.locator('main h1').first().waitFor();
    await this.page.waitForFunction(() => ![...document.querySelectorAll('main [role=status], main p')].some((one) => one.textContent.trim() === 'Loading …'));
  }

  async theme(theme) {
    await this.page.emulateMedia({ colorScheme: theme });
  }

  /** A picture for the README; none where there is no folder for it. */
  async picture(name, theme) {
    if (!this.shots) return;
    const { page } = this;
    await page.setViewportSize({ width: 1280, height: 760 });
    await this.theme(theme);
    await page.screenshot({ path: join(this.shots, `${name}-${theme}.png`) });
    await this.theme('light');
    await page.setViewportSize({ width: 1280, height: 860 });
  }

  async stop() {
    await this.context.close();
    rmSync(this.profile, { recursive: true, force: true });
  }
}
