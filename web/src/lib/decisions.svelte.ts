// What a reviewer means to do with each file, until it is done. Kept while the page lives, so that going to the transcript and back loses nothing.

export type Decision = 'approve' | 'reject';

export class Decisions {
  private marks = $state.raw<ReadonlyMap<number, Decision>>(new Map());

  of(fileId: number): Decision | undefined {
    return this.marks.get(fileId);
  }

  /** Marks a file; the same mark again takes it away. */
  toggle(fileId: number, decision: Decision): void {
    const marks = new Map(this.marks);
    if (marks.get(fileId) === decision) marks.delete(fileId);
    else marks.set(fileId, decision);
    this.marks = marks;
  }

  set(fileIds: Iterable<number>, decision: Decision | null): void {
    const marks = new Map(this.marks);
    for (const id of fileIds) {
      if (decision) marks.set(id, decision);
      else marks.delete(id);
    }
    this.marks = marks;
  }
}

const bySet = new Map<number, Decisions>();

export function decisionsOf(changeSetId: number): Decisions {
  let found = bySet.get(changeSetId);
  if (!found) bySet.set(changeSetId, (found = new Decisions()));
  return found;
}
