// Light, dark, or what the system says. `public/theme.js` applies it before the first paint.

export type Theme = 'auto' | 'light' | 'dark';

const KEY = 'millhand.theme';

function stored(): Theme {
  const value = document.documentElement.dataset.theme;
  return value === 'light' || value === 'dark' ? value : 'auto';
}

class Themes {
  chosen = $state<Theme>(stored());
  private system = matchMedia('(prefers-color-scheme: dark)');
  private systemIsDark = $state(this.system.matches);

  constructor() {
    this.system.addEventListener('change', (event) => (this.systemIsDark = event.matches));
  }

  get isDark(): boolean {
    return this.chosen === 'dark' || (this.chosen === 'auto' && this.systemIsDark);
  }

  choose(theme: Theme): void {
    this.chosen = theme;
    if (theme === 'auto') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try {
      if (theme === 'auto') localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, theme);
    } catch {
      // Storage may be off: the choice lasts as long as the page.
    }
  }

  next(): void {
    this.choose(this.chosen === 'auto' ? (this.isDark ? 'light' : 'dark') : this.chosen === 'dark' ? 'light' : 'dark');
  }
}

export const themes = new Themes();
