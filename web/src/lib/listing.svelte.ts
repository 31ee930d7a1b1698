// A list that is longer than a page: the pages that were asked for, kept fresh together.

import { get } from './api.ts';
import { query, type Query } from './query.svelte.ts';
import type { Notice } from './live.svelte.ts';
import type { Page } from './rows.ts';

const PAGE = 50;
const MOST = 500;

export class Listing<T> {
  /** How many rows are asked for; grows when more are wanted. */
  wanted = $state(PAGE);
  hasMore = $state(false);
  items!: Query<T[]>;

  more(): void {
    this.wanted += this.wanted;
  }
}

export function listing<T>(
  path: () => string,
  filter: () => Record<string, string | string[]>,
  matters?: (notice: Notice) => boolean,
  anyway?: (data: T[] | undefined) => number,
): Listing<T> {
  const list = new Listing<T>();
  const particulars = () => JSON.stringify([path(), filter()]);
  let shown = particulars();
  list.items = query<T[]>(
    () => {
      const now = particulars();
      if (now !== shown) {
        shown = now;
        list.wanted = PAGE;
      }
      return now;
    },
    async (signal) => {
      const found: T[] = [];
      let cursor: string | null = null;
      do {
        const limit = Math.min(MOST, list.wanted - found.length);
        const page: Page<T> = await get(path(), { ...filter(), limit, cursor }, signal);
        found.push(...page.items);
        cursor = page.next ?? null;
      } while (cursor && found.length < list.wanted);
      list.hasMore = cursor !== null;
      return found;
    },
    matters,
    anyway,
  );
  return list;
}
