// The dashboard in a real browser, against a real worker. `tests/browser.rs` starts both and runs this.
//   MILLHAND_BROWSER_URL     where the dashboard is
//   MILLHAND_BROWSER_LOGIN   the link that logs a browser in
//   MILLHAND_BROWSER_REPOSITORY  a repository that is not registered yet
//   MILLHAND_BROWSER_ONLY    only these steps, with commas between; not set: all of them
//   MILLHAND_BROWSER_SHOTS   a folder for the README's screenshots; not set: none are made
//   MILLHAND_BROWSER_ALL     a folder for pictures of every page in light, in dark and on a phone; not set: none are made
import { join } from 'node:path';
import { tmpdir } from 'node:os';

import { Browser } from './browser.mjs';
import { cuts, large } from './heavy.mjs';
import { conflicts, projects, servers, wayBack, webhooks } from './manage.mjs';
import { everyPage } from './pages.mjs';
import { hostile } from './hostile.mjs';
import { answers, costs, emptiness, keyboard, retries, reviews, streams } from './work.mjs';

const url = process.env.MILLHAND_BROWSER_URL;
const shots = process.env.MILLHAND_BROWSER_SHOTS;
if (!url) throw new Error('MILLHAND_BROWSER_URL is not set');

const browser = await Browser.start(url.replace(/\/$/, ''), process.env.MILLHAND_BROWSER_LOGIN);
browser.shots = shots;
browser.all = process.env.MILLHAND_BROWSER_ALL;
browser.repository = process.env.MILLHAND_BROWSER_REPOSITORY;
const only = (process.env.MILLHAND_BROWSER_ONLY ?? '').split(',').filter(Boolean);
const steps = { emptiness, streams, reviews, answers, retries, costs, keyboard, projects, conflicts, wayBack, servers, webhooks, cuts, large, hostile, everyPage };
let failed = false;
for (const [name, step] of Object.entries(steps)) {
  if (only.length > 0 && !only.includes(name)) continue;
  const begun = performance.now();
  try {
    await step(browser);
    await browser.clean(name);
    console.log(`ok: ${name} (${((performance.now() - begun) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed = true;
    const picture = join(tmpdir(), `millhand-browser-${name}.png`);
    await browser.page.screenshot({ path: picture, fullPage: true }).catch(() => undefined);
    console.log(`FAILED: ${name}: ${error.stack ?? error}\n  at ${browser.page.url()}, see ${picture}\n${browser.wrong.join('\n')}`);
    break;
  }
}
await browser.stop();
process.exit(failed ? 1 : 0);
