// What this browser remembers of how its user likes things. Storage may be off, or full: then it forgets.

export function recall(name: string): string | null {
  try {
    return localStorage.getItem(`millhand.${name}`);
  } catch {
    return null;
  }
}

export function remember(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(`millhand.${name}`);
    else localStorage.setItem(`millhand.${name}`, value);
  } catch {
    // It forgets.
  }
}
